"""One process of several, forked by the fixture ``ranks``, which sets the globals ENVIRONMENT, LOG, ARGV and SETUP."""

import os
import runpy
import sys

os.environ.update(ENVIRONMENT)  # noqa: F821
for stream in (1, 2):
    os.dup2(os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)  # noqa: F821
exec(SETUP)  # noqa: F821
sys.argv = [str(argument) for argument in ARGV]  # noqa: F821
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    from limbeck.cli import main

    sys.exit(main(sys.argv))
