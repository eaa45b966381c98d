"""What a checkpoint is: its model, task, tokenizer, and which ids it takes."""
