"""How the images of `segplug_datasets.street_scenes` are drawn: a small world in metres, seen by a camera.

x is to the right of the camera, y above the ground, z ahead. Every function draws a random instance with the generator
it is given, onto a `Canvas` that keeps the image and its label map in step.
"""
