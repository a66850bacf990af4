"""A process forked by the fixture ``fork_python``, which sets the global ``OPTIONS``."""

import os
import runpy
import sys
from pathlib import Path

options = OPTIONS  # noqa: F821
del __file__  # a process that this one spawns would run this file first, as its main module
if options["new_session"]:
    os.setsid()
os.environ.clear()
os.environ.update(options["environment"])
os.chdir(options["cwd"])
for stream, log in enumerate(options["logs"], start=1):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
if "limbeck.utils.timing" in sys.modules:
    runpy.run_path(options["short_timing"])
exec(options["first"])
sys.argv = options["argv"]
if sys.argv[0] == "-c":
    code = sys.argv.pop(1)
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
elif sys.argv[0].endswith(".py"):
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    from limbeck.cli import main

    sys.exit(main(sys.argv))
