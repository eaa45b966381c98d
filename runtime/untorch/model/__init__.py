"""Names to arrays to outputs: the model classes. They know no task."""
