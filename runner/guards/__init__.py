"""Guards for a training job: each module is one file to import, or to copy beside the job's own code.

They need Python's standard library and torch and import nothing of this project, so that one file is enough in a job's
image. They change nothing of the job but what the caller asks for.
"""
