"""Floor 2: text to tokens and back (review section 2.5). Imports no torch."""
