"""A model as it is written down: recipe, checkpoint and side files, and the images that go with it."""
