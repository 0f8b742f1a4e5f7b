"""Features of a whole file at once, one symbol: integer columns in, bars, order flow, z-scores and a volume profile out.

Everything here carries its memory over chunks: `rows, state = job.fold(state, chunk)`, so that a file is read in pieces and memory is the
output and a chunk. Any way of cutting the file gives the same bits. What is summed are integers; a float is formed once, at the end.
"""

from cift_models.features.columns.bars import Bars
from cift_models.features.columns.chunk import EMPTY_OFFSET, Chunk, Level
from cift_models.features.columns.clocks import Clock, TickClock, TimeClock, VolumeClock
from cift_models.features.columns.job import Job, Rows
from cift_models.features.columns.volume_profile import Profile
from cift_models.features.columns.z_score import RollingZ

__all__ = ["EMPTY_OFFSET", "Bars", "Chunk", "Clock", "Job", "Level", "Profile", "RollingZ", "Rows", "TickClock", "TimeClock", "VolumeClock"]
