"""The picture of a sound: its waveform, and below it its spectrogram."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from genscale.media_items import Audio
from genscale.report.lettering import Lettering

WIDTH, WAVE, SPECTRUM, LINE = 720, 88, 176, 20  # pixels; LINE: of the text below
LANES = 2  # channels whose waveforms are drawn
GROUND, FAINT, WAVE_INK, CLIPPED = (255, 255, 255), (118, 122, 130), (47, 111, 181), (192, 57, 43)
LOUDEST, QUIETEST = 0.0, -90.0  # decibels of a sine of full scale, at the ends of the colours
BINS = 4096  # samples of one spectrum, at most
TEXT = Lettering(14)


def picture(audio: Audio, width: int = WIDTH) -> Image.Image:
    """Waveforms of the first two channels, the mel spectrogram of the mean of all channels, and its axes in words.

    Waveforms are in [-1, 1], red where they reach full scale. Colours are absolute, from -90 dB to 0 dB of a sine of
    full scale, so that pictures of several sounds compare. Frequencies rise to half the sampling rate.
    """
    waveform = np.nan_to_num(audio.waveform.astype(np.float64), posinf=1e3, neginf=-1e3)
    canvas = Image.new("RGB", (width, WAVE + SPECTRUM + LINE), GROUND)
    lanes = waveform[:LANES]
    height = WAVE // len(lanes)
    for i, lane in enumerate(lanes):
        canvas.paste(_wave(lane, width, height), (0, i * height))
    canvas.paste(_spectrum(waveform.mean(0), audio.sampling_rate, width), (0, WAVE))
    pen, top = ImageDraw.Draw(canvas), WAVE + SPECTRUM + 3
    channels = {1: "mono", 2: "stereo"}.get(len(waveform), f"{len(waveform)} channels")
    middle = (
        f"{channels}, {audio.sampling_rate / 1000:g} kHz, spectrogram to {audio.sampling_rate / 2000:g} kHz"
    )
    TEXT.draw(pen, (0, top), "0 s", FAINT)
    TEXT.draw(pen, ((width - TEXT.width(middle)) / 2, top), middle, FAINT)
    end = f"{audio.seconds:.3g} s"
    TEXT.draw(pen, (width - TEXT.width(end), top), end, FAINT)
    return canvas


def _wave(samples: np.ndarray, width: int, height: int) -> Image.Image:
    """The range of the samples in each column, up to the first sample of the next one, so that columns join."""
    image = Image.new("RGB", (width, height), GROUND)
    pen, middle, scale = ImageDraw.Draw(image), (height - 1) / 2, (height - 3) / 2
    pen.line((0, middle, width, middle), (230, 232, 236))
    if len(samples) < width:
        samples = np.interp(np.arange(width + 1) * len(samples) / width, np.arange(len(samples)), samples)
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    for x, (start, stop) in enumerate(pairwise(edges.tolist())):
        part = samples[start : stop + 1]
        low, high = float(part.min()), float(part.max())
        colour = CLIPPED if max(-low, high) >= 1 else WAVE_INK
        y = [middle - scale * min(max(v, -1.0), 1.0) for v in (high, low)]
        pen.line((x, y[0], x, y[1]), colour)
    return image


def _spectrum(samples: np.ndarray, rate: int, width: int) -> Image.Image:
    from matplotlib import colormaps  # takes long to import

    level = mel_decibels(samples, rate, SPECTRUM)
    share = ((level - QUIETEST) / (LOUDEST - QUIETEST)).clip(0, 1)
    colours = (colormaps["magma"](share[::-1])[..., :3] * 255).round().astype(np.uint8)
    return Image.fromarray(colours).resize((width, SPECTRUM), Image.Resampling.BILINEAR)


def mel_decibels(samples: np.ndarray, rate: int, rows: int) -> np.ndarray:
    """Levels [rows, frames] in decibels of a sine of full scale, at frequencies evenly spaced in mel, lowest first.

    Each row is the loudest bin of its band, so that a sine shows its own level however wide the band is.
    """
    size = min(BINS, 2 ** int(np.log2(max(len(samples) // 8, 64))))
    samples = np.pad(samples, (0, max(size - len(samples), 0)))
    window, hop = np.hanning(size + 1)[:-1], max(size // 4, 1)
    starts = np.arange(0, len(samples) - size + 1, max(hop, (len(samples) - size) // 1024))
    frames = samples[starts[:, None] + np.arange(size)] * window
    amplitude = np.abs(np.fft.rfft(frames)) * 2 / window.sum()
    decibels = 20 * np.log10(np.maximum(amplitude, 1e-8)).T  # [size / 2 + 1, frames]
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, rows + 1) / 2595) - 1) / (rate / size)
    first = np.minimum(np.floor(edges[:-1]).astype(int), size // 2)
    last = np.maximum(np.ceil(edges[1:]).astype(int), first + 1)
    return np.stack([decibels[a:b].max(0) for a, b in zip(first, last, strict=True)])
