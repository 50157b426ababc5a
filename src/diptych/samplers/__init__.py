"""Floor 2: samplers, the backward processes of the paradigms."""
