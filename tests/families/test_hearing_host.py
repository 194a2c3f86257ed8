"""From samples to the inputs of the audio net: what a runtime prepares in NumPy is what transformers' feature extractors
and classes make of the same sound."""

from __future__ import annotations

import numpy as np
import pytest

from llmconv.blocks.audio import host
from llmconv.blocks.audio.spec import HOP, RATE
from llmconv.checkpoint import sinusoids
from llmconv.errors import InputError

# lengths in samples: the shortest that is taken, odd ones, some a sample beside whole frames and chunks
LENGTHS = (201, 399, 8000, 8001, 15999, 16000, 16001, 16159, 16160, 37123, 48000, 80001)
BANDS = 128
# theirs are float32: what is eight powers of ten below the loudest has an amplitude of 1e-4 beside roundings of 6e-8
NEAR = 1e-4


def sound(samples: int, seed: int = 0) -> np.ndarray:
    """float32 samples: noise of one loudness, then another; or a tone that swells."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(samples) * np.where(np.arange(samples) < samples // 2, 0.3, 0.01)
    tone = np.sin(np.arange(samples) * 0.2) * np.linspace(0, 0.8, samples)
    return (noise if seed % 2 else tone + 0.001 * noise).astype(np.float32)


def test_filters_are_those_of_slaney():
    from transformers.audio_utils import mel_filter_bank

    for bands in (40, 80, 128):
        right = mel_filter_bank(201, bands, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney").T
        np.testing.assert_allclose(host.filters(bands), right, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("seed", [0, 1])
def test_frames_are_those_of_qwen3_asr(samples, seed):
    """As the processor calls its feature extractor: one clip, not filled up but to half a second and whole chunks."""
    from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor

    wave = sound(samples, seed)
    made = Qwen3ASRFeatureExtractor()(
        wave, sampling_rate=RATE, padding=True, return_attention_mask=True, return_tensors="np"
    )
    right, there = made["input_features"][0], int(made["attention_mask"].sum())
    found = host.log_mel(wave, BANDS, length=RATE // 2)
    assert found.shape[1] == max(samples, RATE // 2) // HOP and right.shape[1] == -(-found.shape[1] // 100) * 100
    np.testing.assert_allclose(found, right[:, : found.shape[1]], atol=NEAR)
    assert not right[:, found.shape[1] :].any()
    if samples >= RATE // 2:
        assert there == found.shape[1]


@pytest.mark.parametrize("samples", LENGTHS[2:])
@pytest.mark.parametrize("seed", [0, 1])
def test_frames_are_those_of_whisper(samples, seed):
    """Not filled up, and filled up to a length, where a frame may be more and the last one another."""
    from transformers import WhisperFeatureExtractor

    wave, extractor = sound(samples, seed), WhisperFeatureExtractor(feature_size=BANDS, chunk_length=10)
    right = extractor(wave, sampling_rate=RATE, padding="longest", return_tensors="np")["input_features"][0]
    found = host.log_mel(wave, BANDS)
    assert found.shape == right.shape == (BANDS, samples // HOP)
    np.testing.assert_allclose(found, right, atol=NEAR)
    padded = extractor(wave, sampling_rate=RATE, return_attention_mask=True, return_tensors="np")
    right = padded["input_features"][0][:, : int(padded["attention_mask"].sum())]
    found = host.log_mel(wave, BANDS, length=10 * RATE)[:, : -(-samples // HOP)]
    np.testing.assert_allclose(found, right, atol=NEAR)


def test_silence_and_sounds_that_are_too_short():
    assert (host.log_mel(np.zeros(RATE), BANDS) == -1.5).all()
    for samples in (0, 1, 200):
        with pytest.raises(InputError, match="mirrors 200 samples at the ends.*Fill it up with silence"):
            host.log_mel(np.zeros(samples), BANDS)


@pytest.mark.parametrize("length, width", [(13, 896), (100, 1280), (7, 6)])
def test_sinusoids_are_those_of_the_class(length, width):
    from transformers.models.qwen3_asr.modeling_qwen3_asr import SinusoidsPositionEmbedding

    right = SinusoidsPositionEmbedding(length, width).positional_embedding.numpy()
    np.testing.assert_allclose(sinusoids.table(length, width), right, atol=2e-5)
