"""Floor 2: objectives, the forward processes of the paradigms and their losses."""
