"""`diptych attention COMMAND`: masks drawn, a model's heads looked into, and what attention costs."""
