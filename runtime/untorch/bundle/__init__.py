"""A folder with a model in it: manifest, digests, graphs' declarations, configs. It knows files; nothing runs."""
