"""What a step frees is there for the next one."""

import json
import os
import subprocess
import sys

import pytest

STEPS = """
import json, resource, sys
from limbeck.core.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(13):
    if step == 3:
        before = faults()
    blocks = [b"x" * 2**22 for _ in range(8)]
    del blocks
print(json.dumps([kept, faults() - before]))
"""


def steps(how, **environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", STEPS, how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**plain, **environment})
    return json.loads(done.stdout)


def test_pages_are_not_asked_for_anew_at_each_step():
    kept, faults = steps("kept")
    if not kept:
        pytest.skip("this C library is not glibc")
    # 32 MB are 8,192 pages a step.
    assert faults < 100 < steps("as it is")[1]


def test_what_the_environment_says_stands():
    assert steps("kept", MALLOC_TRIM_THRESHOLD_="131072")[0] is False
