"""Floor 0: the types, random numbers, configuration and events that every other floor shares."""
