"""`diptych tokenizer COMMAND`: tokenizers made, used, shown, compared and studied."""
