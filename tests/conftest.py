"""What all tests share."""

import os
import signal

# Engines run beside one another here, and several threads of each would spend their time waiting at barriers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A run that was started in the background inherits SIGINT ignored, and its children would too: interrupts must arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)
