"""Synthetic legacy images for trying out, tests and benchmarks: same options, same bytes."""

from xenmig_np.sample.image import SampleOptions, sample_image, sample_size

__all__ = ["SampleOptions", "sample_image", "sample_size"]
