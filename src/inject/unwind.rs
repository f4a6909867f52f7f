//! Where the unwinder finds the tables of the code it is in.
//!
//! The part of libgcc that this library has taken in asks `_dl_find_object` for that, which glibc has since 2.35 and no other C library has; a library that needs it
//! does not load there, and the program does not start. So it is answered here: by glibc where it can, else from the program headers. The name is hidden: nobody
//! else sees it.

use std::{
    ffi::{c_int, c_ulonglong, c_void},
    mem, ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(".globl _dl_find_object", ".hidden _dl_find_object", "_dl_find_object:", "jmp {inner}", inner = sym find_object);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(".globl _dl_find_object", ".hidden _dl_find_object", "_dl_find_object:", "b {inner}", inner = sym find_object);

/// glibc's `struct dl_find_object` of 64-bit machines.
#[repr(C)]
struct Found {
    flags: c_ulonglong,
    map_start: *mut c_void,
    map_end: *mut c_void,
    link_map: *mut c_void,
    eh_frame: *mut c_void,
    reserved: [c_ulonglong; 7],
}

type FindObject = unsafe extern "C" fn(*mut c_void, *mut Found) -> c_int;

unsafe extern "C" fn find_object(pc: *mut c_void, found: *mut Found) -> c_int {
    static NEXT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let mut next = NEXT.load(Ordering::Relaxed);
    if next.is_null() {
        // SAFETY: the name ends in NUL.
        next = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()) };
        NEXT.store(next, Ordering::Relaxed);
    }
    if !next.is_null() {
        // SAFETY: glibc's function of this name has this type; the arguments are the caller's.
        return unsafe { mem::transmute::<*mut c_void, FindObject>(next)(pc, found) };
    }
    let mut search = Search { pc: pc as usize, found: None };
    // SAFETY: the callback gets what it was made for, and does not keep it.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    let Some((start, end, eh_frame)) = search.found else { return -1 };
    let pointer = |address: usize| address as *mut c_void;
    // SAFETY: the caller's struct.
    unsafe {
        *found = Found {
            flags: 0,
            map_start: pointer(start),
            map_end: pointer(end),
            link_map: ptr::null_mut(),
            eh_frame: pointer(eh_frame),
            reserved: [0; 7],
        };
    }
    0
}

struct Search {
    pc: usize,
    /// Where the segment begins and ends, and where the object's tables are.
    found: Option<(usize, usize, usize)>,
}

/// Looks at one object: 1 when it is the one.
unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: what `find_object` handed over, and the loader's word on one object, whose headers are as many as it says.
    let (search, info, headers) = unsafe {
        let info = &*info;
        (&mut *search.cast::<Search>(), info, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    let address = |header: &libc::Elf64_Phdr| usize::try_from(info.dlpi_addr + header.p_vaddr).unwrap_or(0);
    let segment = |header: &&libc::Elf64_Phdr| {
        let start = address(header);
        header.p_type == libc::PT_LOAD && (start..start + usize::try_from(header.p_memsz).unwrap_or(0)).contains(&search.pc)
    };
    let Some(here) = headers.iter().find(segment) else { return 0 };
    let tables = headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME);
    search.found = tables.map(|tables| (address(here), address(here) + usize::try_from(here.p_memsz).unwrap_or(0), address(tables)));
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_headers_say_what_glibc_says() {
        let pc = the_program_headers_say_what_glibc_says as *mut c_void;
        let mut search = Search { pc: pc as usize, found: None };
        // SAFETY: as in `find_object`.
        unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
        let (start, end, eh_frame) = search.found.expect("this code is in an object");
        assert!((start..end).contains(&(pc as usize)));
        // SAFETY: all zeros is the struct; it is ours.
        let mut found: Found = unsafe { mem::zeroed() };
        // SAFETY: as above.
        if unsafe { find_object(pc, &raw mut found) } == 0 {
            assert_eq!(found.eh_frame as usize, eh_frame);
        }
    }
}
