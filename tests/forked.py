"""Python processes of tests, forked from one that has imported vLLM: to import it takes longer than an engine runs.

Arguments, standard input, environment, output and exit code are each process's own, as if it had been started anew.
What needs vLLM imported in an environment of its own, as interpreted kernels do, is started anew.
"""

import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

LIMIT_S = 500


def run(*command: str, said: str = "", **env: str | None) -> "subprocess.CompletedProcess[str]":
    """As `subprocess.run` of Python with this command: a script, `-m` and a module, or `-c` and a program.

    `said`: its standard input; `env`: what it has in its environment beside ours, or (None) has not.
    """
    environ = {name: value for name, value in (os.environ | env).items() if value is not None}
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("in", "out", "err")]
        for file, text in zip(files, (said, "", ""), strict=True):
            file.write_text(text)
        order = {"command": command, "files": list(map(str, files)), "environ": environ}
        return subprocess.CompletedProcess(command, _zygote.ask(order), *(file.read_text() for file in files[1:]))


def outcome(script: str | Path, *args: str, spec: Any = None, fresh: bool = False) -> Any:
    """The JSON that a script prints last; fails with its own words. `spec`: JSON for its standard input."""
    command, said = [str(script), *args], json.dumps(spec)
    if fresh:
        anew = [sys.executable, *command]
        done = subprocess.run(anew, input=said, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    else:
        done = run(*command, said=said)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


class Zygote:
    """The process that is forked: started when it is first needed, and it ends with ours."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, order: dict[str, Any]) -> int:
        """The exit code of one more process."""
        if self._process is None:
            # -P: else all that lies beside this file would be importable, and shadow others' packages.
            command, pipe = [sys.executable, "-P", __file__], subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        process = self._process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], LIMIT_S)[0]:
                raise subprocess.TimeoutExpired(order["command"], LIMIT_S)
            return int(process.stdout.readline())
        except BaseException:  # whatever hangs there ends with it
            self._process = None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


_zygote = Zygote()


def ordered(imported: dict[str, str]) -> list[str]:
    """Fork for each order; returns in the forked process alone, with its command.

    `imported`: what importing has put into the environment.
    """
    for line in sys.stdin:
        order = json.loads(line)
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        for number, path in enumerate(order["files"]):
            os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
        sys.stdin = os.fdopen(0, closefd=False)
        os.environ.clear()
        os.environ.update(order["environ"] | imported)
        command: list[str] = order["command"]
        return command
    sys.exit()


def become(command: list[str]) -> None:
    """Go on as `python` with this command would."""
    sys.path.insert(0, "" if command[0] in ("-m", "-c") else str(Path(command[0]).resolve().parent))
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    from agentcache.vllm_plugin.launch.cpu_env import prepare

    prepare(threads=1)
    before = dict(os.environ)
    import vllm.entrypoints.llm
    import vllm.model_executor.models.llama
    import vllm.v1.engine.async_llm  # noqa: F401

    import agentcache.vllm_plugin.cpu_worker
    import agentcache.vllm_plugin.lab.look_inside
    import agentcache.vllm_plugin.scheduler  # noqa: F401

    gc.collect()
    gc.freeze()  # an engine collects garbage several times while it starts, and need not look through all that again
    become(ordered({name: value for name, value in os.environ.items() if before.get(name) != value}))
