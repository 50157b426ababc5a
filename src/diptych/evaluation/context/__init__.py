"""What is a model's effective context length? (the review's open question)"""
