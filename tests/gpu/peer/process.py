"""Processes of `peers.py`: each serves one tool, and is told over a pair of pipes with names what to do."""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback

from . import tools, work

PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers.py")


def die_with_parent():
    """Asks Linux to end this process when the one that started it has ended."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve(tool_name, ask, answer, args):
    """Does what it is asked for, a line each, and answers a line each."""
    from overhead import on_few_processors  # beside peers.py

    die_with_parent()
    if tool_name != "other":
        on_few_processors()
    ask, answer = open(ask), open(answer, "w")

    def say(**said):
        print(json.dumps(said), file=answer, flush=True)

    try:
        if tool_name == "other":
            products = work.Products(args.tiny)
            products.run(8)
            say(ready=True, flop=products.flop)
            for line in ask:
                products.run(json.loads(line)["times"])
                say(done=True)
            return
        job = work.Work(args.tiny)
        # A process that is only timed needs no more than the step.
        failed = job.prepare((*work.TIMED, *(v for v in work.VARIANTS if v not in work.TIMED and tool_name not in ("plain", "bare"))))
        using = tools.tool(tool_name)(job, args)
        say(ready=True, failed=failed, parameters=job.parameters, seconds=using.seconds)
    except Exception as e:
        traceback.print_exc()
        say(error=f"{type(e).__name__}: {e}"[:300])
        return
    for line in ask:
        asked = json.loads(line)
        try:
            if asked["do"] == "end":
                say(more=using.more())
                return
            say(**(timed if asked["do"] == "time" else measured)(job, using, asked, ask, say))
        except Exception as e:
            traceback.print_exc()
            say(error=f"{type(e).__name__}: {e}"[:300])


def timed(job, tool, asked, ask, say):
    """Seconds of so many steps under the tool, in how many of them the CPU had launched all, and what starting and stopping the tool took. Caches are the other process's at
    first: one more step comes before them."""
    before = time.perf_counter()
    if not tool.external and not tool.running:
        tool.start()
        tool.running = tool.lasting
    started, took, launched = time.perf_counter(), [], []
    for n in range(asked["times"] + asked["warm"]):
        begun = time.perf_counter()
        job.run(asked["variant"])
        tool.step(job.fed(asked["variant"]))
        launched.append(time.perf_counter() - begun)
        job.sync()
        took.append(time.perf_counter() - begun)
    stopping = time.perf_counter()
    if not tool.external and not tool.running:
        tool.stop()
    said = {"start_s": started - before, "stop_s": time.perf_counter() - stopping}
    return {"took": took[asked["warm"] :], "launched": launched[asked["warm"] :], **said}


def measured(job, tool, asked, ask, say):
    """What the tool reports for so many steps of a variant. With `wait` it is stopped when it is told so: when the other process has ended too."""
    variant = asked["variant"]
    if variant not in job.ready:
        raise RuntimeError(f"{variant} does not run here")
    job.sync()
    if tool.running:
        tool.stop()
        tool.running = False
    tool.start()
    if asked.get("wait"):
        say(started=True)
    begun = time.perf_counter()
    for _ in range(asked["times"]):
        job.run(variant)
        tool.step(job.fed(variant))
    job.sync()
    took = time.perf_counter() - begun
    if asked.get("wait"):
        say(ran=True)
        ask.readline()
    said = tool.stop()
    said |= tool.read()
    return {"reports": said, "times": asked["times"], "took_s": took}


class Failed(Exception):
    """A tool did not do what it was asked for; the message says what it said. When that is final, nothing more can be asked of it."""

    def __init__(self, why, final=False):
        super().__init__(why)
        self.final = final


class Child:
    """The process of a tool: forked, or started by a command that is given the rest of its own line."""

    def __init__(self, name, args, command=None, **env):
        self.name, self.log = name, os.path.join(args.out, f"{name}.log")
        paths = [os.path.join(args.out, f"{name}.{end}") for end in ("ask", "answer")]
        for path in paths:
            if os.path.exists(path):
                os.remove(path)
            os.mkfifo(path)
        # Both ends are held here, so that nobody waits in opening one.
        self.ask, self.answer = (os.open(path, os.O_RDWR) for path in paths)
        self.text, self.status, self.process = b"", None, None
        if command:
            line = [*command, sys.executable, PEERS, "serve", name, *paths, "--out", args.out, *(["--tiny"] if args.tiny else [])]
            with open(self.log, "w") as log:
                self.process = subprocess.Popen(line, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent)
            self.pid = self.process.pid
            return
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.environ.update(env)
                serve(name, *paths, args)
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)

    def _over(self):
        if self.process:
            self.status = self.process.poll()
        elif self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def hear(self, timeout):
        """The next answer."""
        until = time.monotonic() + timeout
        while b"\n" not in self.text:
            over = self._over()
            if select.select([self.answer], [], [], 0 if over else 0.1)[0]:
                self.text += os.read(self.answer, 1 << 20)
            elif over or time.monotonic() > until:
                why = f"ended with status {self.status}" if over else f"no answer within {timeout:.0f} s"
                raise Failed(f"{why}: {self.tail()}", final=True)
        line, self.text = self.text.split(b"\n", 1)
        said = json.loads(line)
        if "error" in said:
            raise Failed(said["error"])
        return said

    def tell(self, **asked):
        os.write(self.ask, json.dumps(asked).encode() + b"\n")

    def tail(self):
        with open(self.log, errors="replace") as f:
            return " ".join(f.read()[-300:].split())

    def wait(self, timeout):
        """Waits for its end; kills it and what it started when that does not come."""
        until = time.monotonic() + timeout
        while not self._over() and time.monotonic() < until:
            time.sleep(0.05)
        if not self._over():
            os.killpg(self.pid, signal.SIGKILL)
            while not self._over():
                time.sleep(0.01)
        os.close(self.ask)
        os.close(self.answer)
