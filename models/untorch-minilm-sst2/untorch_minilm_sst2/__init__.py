"""The model minilm-sst2, as an untorch bundle in the folder `bundle`. It holds no code."""
