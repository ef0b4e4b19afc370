//! SHA-1 of eight messages at once, one in each lane of the processor's vectors. SHA-1 is the largest single cost of a
//! download, and the SHA instructions that the `sha1` crate uses take one message at a time; eight side by side need a
//! third of the time of one after the other. No crate does it, and nothing depends on it: a piece that does not pass its
//! hash here is hashed again by `sha1` before anybody calls it bad.

/// Messages that are hashed together.
pub(super) const LANES: usize = 8;

/// Bytes that SHA-1 takes at a time.
const CHUNK: usize = 64;

/// The SHA-1 (FIPS 180-4) of each message; `None` if they are not all of one length, or if this processor cannot do it.
pub(super) fn sha1(messages: &[&[u8]; LANES]) -> Option<[[u8; 20]; LANES]> {
    let length = messages[0].len();
    if !available() || messages.iter().any(|message| message.len() != length) {
        return None;
    }
    let chunks = messages.map(|message| message.as_chunks::<CHUNK>());
    let mut state = INITIAL.map(|word| [word; LANES]);
    // SAFETY: it is available, here and below.
    unsafe { update(&mut state, &chunks.map(|(whole, _)| whole)) };
    let last = if length % CHUNK < CHUNK - 8 { 1 } else { 2 };
    let ends = chunks.map(|(_, rest)| padded(rest, length, last));
    // SAFETY: as above.
    unsafe { update(&mut state, &ends.each_ref().map(|end| &end.as_chunks().0[..last])) };
    Some(std::array::from_fn(|lane| {
        let mut hash = [0; 20];
        for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(&state) {
            *bytes = word[lane].to_be_bytes();
        }
        hash
    }))
}

/// True if this processor can do it.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

const INITIAL: [u32; 5] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];

/// The end of a message of `length` bytes with its padding, in the first `chunks` halves.
fn padded(rest: &[u8], length: usize, chunks: usize) -> [u8; 2 * CHUNK] {
    let mut end = [0; 2 * CHUNK];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 0x80;
    let bits = (length as u64 * 8).to_be_bytes();
    end[chunks * CHUNK - 8..chunks * CHUNK].copy_from_slice(&bits);
    end
}

/// Takes the chunks of every lane into the state: each of its five words holds all lanes'.
///
/// # Safety
/// It is [`available`].
unsafe fn update(state: &mut [[u32; LANES]; 5], chunks: &[&[[u8; CHUNK]]; LANES]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller knows that the processor has these instructions.
    unsafe {
        x86::update(state, chunks);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (state, chunks);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i as Words, _mm_set_epi8, _mm256_add_epi32, _mm256_broadcastsi128_si256, _mm256_loadu_si256,
        _mm256_permute2x128_si256, _mm256_rol_epi32, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_storeu_si256, _mm256_ternarylogic_epi32, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
        _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
    };

    use super::{CHUNK, LANES};

    /// Truth tables of functions of three bits.
    const CHOOSE: i32 = 0xCA;
    const PARITY: i32 = 0x96;
    const MAJORITY: i32 = 0xE8;

    /// The steps of FIPS 180-4, 6.1.2, one by one: so the words stay in registers.
    macro_rules! steps {
        ($of:ident, $words:ident, $function:ident, $constant:literal, $($step:literal)+) => {{
            let constant = _mm256_set1_epi32(u32::cast_signed($constant));
            $( $of = step::<$step, $function>($of, &mut $words, constant); )+
        }};
    }

    #[target_feature(enable = "avx512f,avx512vl")]
    pub(super) fn update(state: &mut [[u32; LANES]; 5], chunks: &[&[[u8; CHUNK]]; LANES]) {
        // SAFETY: eight words of 32 bits are as long as a vector, which may begin anywhere.
        let mut sums = state.each_ref().map(|lanes| unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) });
        let count = chunks.iter().map(|lane| lane.len()).min().unwrap_or(0);
        for at in 0..count {
            let mut words = transpose(chunks.map(|lane| &lane[at]));
            let mut of = sums;
            steps!(of, words, CHOOSE, 0x5A82_7999, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
            steps!(of, words, PARITY, 0x6ED9_EBA1, 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
            steps!(of, words, MAJORITY, 0x8F1B_BCDC, 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59);
            steps!(of, words, PARITY, 0xCA62_C1D6, 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79);
            sums = std::array::from_fn(|i| _mm256_add_epi32(sums[i], of[i]));
        }
        for (lanes, sum) in state.iter_mut().zip(sums) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn step<const STEP: usize, const FUNCTION: i32>(
        [a, b, c, d, e]: [Words; 5],
        words: &mut [Words; 16],
        constant: Words,
    ) -> [Words; 5] {
        if STEP >= 16 {
            let [x, y, z] = [3, 8, 14].map(|before| words[(STEP - before) % 16]);
            let mixed = _mm256_xor_si256(words[STEP % 16], _mm256_ternarylogic_epi32::<PARITY>(x, y, z));
            words[STEP % 16] = _mm256_rol_epi32::<1>(mixed);
        }
        let sum = _mm256_add_epi32(_mm256_add_epi32(e, words[STEP % 16]), constant);
        let mixed = _mm256_ternarylogic_epi32::<FUNCTION>(b, c, d);
        let next = _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_rol_epi32::<5>(a), mixed));
        [next, a, _mm256_rol_epi32::<30>(b), c, d]
    }

    /// The sixteen words of a chunk of every lane, each in a vector of its own.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn transpose(chunks: [&[u8; CHUNK]; LANES]) -> [Words; 16] {
        let big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
        let big_endian = _mm256_broadcastsi128_si256(big_endian);
        let mut words = [_mm256_setzero_si256(); 16];
        for (half, words) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let rows = chunks.map(|chunk| {
                let bytes: &[u8; 32] = &chunk.as_chunks().0[half];
                // SAFETY: 32 bytes are as long as a vector, which may begin anywhere.
                _mm256_shuffle_epi8(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }, big_endian)
            });
            // Words of two lanes side by side, then of four, then of all.
            let pairs: [Words; 8] = std::array::from_fn(|i| {
                let (x, y) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
                if i % 2 == 0 { _mm256_unpacklo_epi32(x, y) } else { _mm256_unpackhi_epi32(x, y) }
            });
            let fours: [Words; 8] = std::array::from_fn(|i| {
                let first = i / 4 * 4 + i % 4 / 2;
                let (x, y) = (pairs[first], pairs[first + 2]);
                if i % 2 == 0 { _mm256_unpacklo_epi64(x, y) } else { _mm256_unpackhi_epi64(x, y) }
            });
            *words = std::array::from_fn(|i| {
                let (x, y) = (fours[i % 4], fours[i % 4 + 4]);
                if i < 4 { _mm256_permute2x128_si256::<0x20>(x, y) } else { _mm256_permute2x128_si256::<0x31>(x, y) }
            });
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha1::Digest;

    use super::*;

    fn check(messages: &[Vec<u8>; LANES]) {
        let expected = available().then(|| messages.each_ref().map(|message| sha1::Sha1::digest(message).into()));
        assert_eq!(sha1(&messages.each_ref().map(Vec::as_slice)), expected);
    }

    /// Every way that a message can end, and more chunks than one.
    #[test]
    fn every_length_of_the_end() {
        for length in 0..300_usize {
            check(&std::array::from_fn(|lane| (0..length).map(|i| (i * 7 + lane * 31).to_le_bytes()[0]).collect()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn as_one_after_the_other(length in 0..20_000_usize, seed: [u64; LANES]) {
            check(&seed.map(|seed| {
                let mut next = seed;
                let random = || {
                    next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    next.to_be_bytes()[0]
                };
                std::iter::repeat_with(random).take(length).collect()
            }));
        }
    }

    #[test]
    fn messages_of_several_lengths_are_refused() {
        let mut messages = [&b"eight bytes"[..]; LANES];
        assert_eq!(sha1(&messages).is_some(), available());
        messages[5] = b"seven";
        assert_eq!(sha1(&messages), None);
    }
}
