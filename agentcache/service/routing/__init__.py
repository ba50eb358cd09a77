"""Where a turn goes: what is known of it, and what each replica would cost it."""
