"""Floor 4: the loop, its optimizers and schedules, exact resume, distribution."""
