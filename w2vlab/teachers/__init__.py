"""Teachers: networks that follow the student, and give it its targets."""

from w2vlab.teachers.ema import EMATeacher

__all__ = ["EMATeacher"]
