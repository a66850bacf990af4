"""A process forked by the fixture ``fork_python``, which sets the names in capitals."""

import os
import runpy
import sys

if NEW_SESSION:  # noqa: F821
    os.setsid()
os.environ.clear()
os.environ.update(ENVIRONMENT)  # noqa: F821
os.chdir(CWD)  # noqa: F821
for stream, log in enumerate(LOGS, start=1):  # noqa: F821
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
exec(SETUP)  # noqa: F821
sys.argv = ARGV  # noqa: F821
if sys.argv[0] == "-c":
    code = sys.argv.pop(1)
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
elif sys.argv[0].endswith(".py"):
    sys.path.insert(0, os.path.dirname(sys.argv[0]))  # noqa: PTH120
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    from limbeck.cli import main

    sys.exit(main(sys.argv))
