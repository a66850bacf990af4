"""``limbeck new``: a recipe for a folder of images, a teacher and a student."""
