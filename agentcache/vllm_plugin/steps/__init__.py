"""On the scheduler's thread, once a step: how it is put together, the queue, the pace and the gauges."""
