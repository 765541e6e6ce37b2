"""Petrov, Torr and Bibi (2024), "Prompting a pretrained transformer can be a universal approximator": heads on the sphere.

nets           points of the sphere with a given covering radius, as few as can be found
icosahedral    geodesic grids of the two-sphere, and their stretched relatives
relaxation     moving points so that their covering radius falls
equal_area     partitions into regions of equal area and bounded radius (Leopardi 2006)

The other files of this folder build the paper's heads on these points.
"""
