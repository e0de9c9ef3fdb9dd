"""Seeds: a folder of images becomes samples, in parallel, resumably, and with an account of every single file."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import batched, chain
from pathlib import Path
