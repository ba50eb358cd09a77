"""What all tests share."""

import signal

# A run that was started in the background inherits SIGINT ignored, and its children would too: interrupts must arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)
