//! NVIDIA's oldest library that will do, which has a process of its own.

mod sampling;
mod wheels;

#[test]
fn the_oldest_library_samples_tensor_cycles_in_one_pass() {
    sampling::in_one_pass("nvidia-cuda-cupti-cu12==12.6.80", "libcupti.so.12", &["GA100", "GA102", "AD102", "GH100"]);
}
