"""Floor 2: text from wherever it is, packed and streamed exactly."""
