"""What all tests share."""

import os
import signal

from hypothesis import HealthCheck, settings

# Engines run beside one another here, and several threads of each would spend their time waiting at barriers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A run that was started in the background inherits SIGINT ignored, and its children would too: interrupts must arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What a drawn example takes depends on what else the machine does: no test is timed. The same examples are drawn in
# every run, so that a change is judged by itself; `pytest --hypothesis-profile explore` draws others, and more of them.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", UNTIMED, derandomize=True)
settings.register_profile("explore", UNTIMED, max_examples=500)
settings.load_profile("repeatable")
