"""Floor 6: one thin file a command: parse, call one function, print events. The only place that prints."""
