"""What all tests share."""

import os
import signal

from hypothesis import HealthCheck, settings

# Engines run beside one another here, and several threads of each would spend their time waiting at barriers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A run that was started in the background inherits SIGINT ignored, and its children would too: interrupts must arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What a drawn example takes depends on what else the machine does: no test is timed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
