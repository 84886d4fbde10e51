"""In the place of other session libraries: one import line changes. Each face stands in a module of its own."""
