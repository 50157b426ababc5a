"""Floor 4: what a trained model is worth: likelihood and the yardsticks beside it."""
