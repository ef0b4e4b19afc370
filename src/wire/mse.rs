//! Message stream encryption (MSE, also called PE): the exchange that goes before BitTorrent's own handshake. Both sides
//! find a secret by Diffie-Hellman, each proves that it knows the torrent, and they agree whether what follows is sealed
//! with RC4. [`Initiator`] and [`Responder`] are machines without IO: the bytes of the other side go in, what is to be
//! sent comes out, and it ends with [`Agreed`] or with why not. No pad, whatever it hides, is waited for past 512 bytes.

use num_bigint::BigUint;
use rand::{Rng, RngExt};
use sha1::{Digest, Sha1};

use super::rc4::Rc4;

/// Bytes of a public key: the prime has 768 bits.
pub const KEY_LENGTH: usize = 96;
/// The longest pad, bytes.
pub const MAX_PAD: usize = 512;
/// The most that an initiator may send along with its proof, bytes: a handshake is 68, and the messages that may follow it
/// need not come so early. They are held until the exchange is over.
const MAX_INITIAL: usize = 4096;
/// The prime of the exchange; the generator is 2.
const PRIME: [u8; KEY_LENGTH] = [
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xC9, 0x0F, 0xDA, 0xA2, 0x21, 0x68, 0xC2, 0x34, 0xC4, 0xC6, 0x62,
    0x8B, 0x80, 0xDC, 0x1C, 0xD1, 0x29, 0x02, 0x4E, 0x08, 0x8A, 0x67, 0xCC, 0x74, 0x02, 0x0B, 0xBE, 0xA6, 0x3B, 0x13,
    0x9B, 0x22, 0x51, 0x4A, 0x08, 0x79, 0x8E, 0x34, 0x04, 0xDD, 0xEF, 0x95, 0x19, 0xB3, 0xCD, 0x3A, 0x43, 0x1B, 0x30,
    0x2B, 0x0A, 0x6D, 0xF2, 0x5F, 0x14, 0x37, 0x4F, 0xE1, 0x35, 0x6D, 0x6D, 0x51, 0xC2, 0x45, 0xE4, 0x85, 0xB5, 0x76,
    0x62, 0x5E, 0x7E, 0xC6, 0xF4, 0x4C, 0x42, 0xE9, 0xA6, 0x3A, 0x36, 0x21, 0x00, 0x00, 0x00, 0x00, 0x00, 0x09, 0x05,
    0x63,
];
/// Bytes of a private key: 160 bits, which the specification holds to be enough.
const PRIVATE_LENGTH: usize = 20;
/// What shows that both sides' ciphers agree: eight zeros, sealed.
const VERIFICATION: [u8; 8] = [0; 8];
/// Bytes of RC4's key stream that are thrown away, because they tell of the key.
const DROPPED: usize = 1024;

/// Why an exchange fails. The connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MseError {
    /// A public key that would give the secret away.
    #[error("its public key is none that the exchange allows")]
    Key,
    /// What has to come within 512 bytes did not.
    #[error("it does not go on with the encryption handshake")]
    Unsynchronised,
    /// A pad longer than 512 bytes.
    #[error("a pad of {0} bytes is longer than the encryption handshake allows")]
    Pad(u16),
    /// More than we hold along with the proof.
    #[error("it sends {0} bytes along with its encryption handshake")]
    Initial(u16),
    /// No torrent of ours.
    #[error("it asks for a torrent that we do not have")]
    Torrent,
    /// What it sealed does not open.
    #[error("it seals with another key")]
    Verification,
    /// No method that both take.
    #[error("it takes no kind of encryption that we take")]
    Methods,
}

/// What the bytes after the exchange are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing.
    Plain,
    /// RC4.
    Rc4,
}

/// The methods that one side takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    /// Nothing seals what follows the exchange.
    pub plain: bool,
    /// RC4 does.
    pub rc4: bool,
}

impl Methods {
    /// Either.
    pub const BOTH: Self = Self { plain: true, rc4: true };
    /// RC4 and nothing else.
    pub const RC4: Self = Self { plain: false, rc4: true };

    fn bits(self) -> u32 {
        u32::from(self.plain) | u32::from(self.rc4) << 1
    }

    fn from_bits(bits: u32) -> Self {
        Self { plain: bits & 1 != 0, rc4: bits & 2 != 0 }
    }

    /// What is used between one side that takes these and another that takes `others`: no cipher if that will do, which
    /// costs nothing. Who wants RC4 takes nothing else.
    fn pick(self, others: Self) -> Result<Method, MseError> {
        match (self.plain && others.plain, self.rc4 && others.rc4) {
            (true, _) => Ok(Method::Plain),
            (false, true) => Ok(Method::Rc4),
            (false, false) => Err(MseError::Methods),
        }
    }

    /// The one method that these are, if both took it.
    fn picked(self, bits: u32) -> Result<Method, MseError> {
        match bits {
            1 if self.plain => Ok(Method::Plain),
            2 if self.rc4 => Ok(Method::Rc4),
            _ => Err(MseError::Methods),
        }
    }
}

/// One direction of a sealed connection: RC4, which opens as it seals.
pub struct Cipher(Rc4);

impl std::fmt::Debug for Cipher {
    /// Not its key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    fn new(direction: &[u8], secret: &[u8], torrent: &[u8; 20]) -> Self {
        let mut cipher = Self(Rc4::new(&hash(&[direction, secret, torrent])));
        cipher.apply(&mut [0; DROPPED]);
        cipher
    }

    /// Seals or opens the next bytes of the stream.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        self.0.apply(bytes);
    }
}

/// What an exchange ends with.
#[derive(Debug)]
pub struct Agreed {
    /// The torrent that the connection is for.
    pub torrent: [u8; 20],
    /// What seals the bytes that we send and opens those that we receive from now on; none: nothing does.
    pub ciphers: Option<(Cipher, Cipher)>,
    /// What the other side has sent already of what follows the exchange, opened.
    pub ahead: Vec<u8>,
}

/// What a torrent is found by without being named: kept beside every torrent, so that an exchange hashes one value and
/// not one for each torrent.
#[must_use]
pub fn obfuscated(info_hash: &[u8; 20]) -> [u8; 20] {
    hash(&[b"req2", info_hash])
}

fn hash(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// Our half of the Diffie-Hellman exchange.
struct Secret(BigUint);

impl Secret {
    fn new(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; PRIVATE_LENGTH];
        rng.fill_bytes(&mut bytes);
        Self(BigUint::from_bytes_be(&bytes))
    }

    fn public(&self) -> [u8; KEY_LENGTH] {
        padded(&BigUint::from(2u8).modpow(&self.0, &BigUint::from_bytes_be(&PRIME)))
    }

    /// The secret that both sides share. Keys are refused of which it could be known beforehand.
    fn shared(&self, theirs: &[u8]) -> Result<[u8; KEY_LENGTH], MseError> {
        let (theirs, prime) = (BigUint::from_bytes_be(theirs), BigUint::from_bytes_be(&PRIME));
        if theirs <= BigUint::from(1u8) || theirs >= &prime - 1u8 {
            return Err(MseError::Key);
        }
        Ok(padded(&theirs.modpow(&self.0, &prime)))
    }
}

/// A number below the prime as it goes over the wire: leading zeros belong to it.
fn padded(number: &BigUint) -> [u8; KEY_LENGTH] {
    let (bytes, mut out) = (number.to_bytes_be(), [0; KEY_LENGTH]);
    for (to, from) in out.iter_mut().rev().zip(bytes.iter().rev()) {
        *to = *from;
    }
    out
}

fn pad(rng: &mut impl Rng, most: usize) -> Vec<u8> {
    let mut pad = vec![0; rng.random_range(0..=most)];
    rng.fill_bytes(&mut pad);
    pad
}

/// What has come and is not used yet.
#[derive(Default)]
struct Input(Vec<u8>);

impl Input {
    /// The first `count` bytes, if so many are there.
    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        if self.0.len() < count {
            return None;
        }
        let rest = self.0.split_off(count);
        Some(std::mem::replace(&mut self.0, rest))
    }

    /// As [`Input::take`], opened.
    fn open(&mut self, count: usize, cipher: &mut Cipher) -> Option<Vec<u8>> {
        let mut bytes = self.take(count)?;
        cipher.apply(&mut bytes);
        Some(bytes)
    }

    /// Throws away a pad and the mark behind it. None: not there yet.
    fn skip_to(&mut self, mark: &[u8]) -> Result<Option<()>, MseError> {
        let window = self.0.get(..MAX_PAD + mark.len()).unwrap_or(&self.0);
        match window.windows(mark.len()).position(|bytes| bytes == mark) {
            Some(at) => Ok(self.take(at + mark.len()).map(drop)),
            None if self.0.len() >= MAX_PAD + mark.len() => Err(MseError::Unsynchronised),
            None => Ok(None),
        }
    }
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn be_u16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes)
}

/// The length of a pad, if it is one.
fn pad_length(bytes: &[u8], at: usize) -> Result<usize, MseError> {
    let length = be_u16(bytes, at);
    if usize::from(length) > MAX_PAD { Err(MseError::Pad(length)) } else { Ok(length.into()) }
}

/// The ends of an exchange: ciphers if they are to be used on, and what came beyond it.
fn agreed(torrent: [u8; 20], method: Method, ciphers: (Cipher, Cipher), mut ahead: Vec<u8>, rest: Input) -> Agreed {
    let ((seal, mut open), mut rest) = (ciphers, rest.0);
    if method == Method::Rc4 {
        open.apply(&mut rest);
    }
    ahead.append(&mut rest);
    Agreed { torrent, ciphers: (method == Method::Rc4).then_some((seal, open)), ahead }
}

/// The side that dialled.
pub struct Initiator {
    secret: Secret,
    torrent: [u8; 20],
    methods: Methods,
    initial: Vec<u8>,
    input: Input,
    output: Vec<u8>,
    ciphers: Option<(Cipher, Cipher)>,
    step: InitiatorStep,
}

enum InitiatorStep {
    Key,
    Synchronise([u8; 8]),
    Pick,
    Pad(Method, usize),
    Over,
}

impl Initiator {
    /// Begins an exchange for a torrent; `initial` goes along with our proof, which spares a round trip. `rng` guards
    /// the secret: it must be one that nobody can foresee.
    #[must_use]
    pub fn new(torrent: [u8; 20], methods: Methods, initial: &[u8], rng: &mut impl Rng) -> Self {
        let secret = Secret::new(rng);
        Self::with(secret, &pad(rng, MAX_PAD), torrent, methods, initial)
    }

    fn with(secret: Secret, pad: &[u8], torrent: [u8; 20], methods: Methods, initial: &[u8]) -> Self {
        let mut output = secret.public().to_vec();
        output.extend_from_slice(pad);
        let initial = initial.get(..MAX_INITIAL).unwrap_or(initial).to_vec();
        let (input, step) = (Input::default(), InitiatorStep::Key);
        Self { secret, torrent, methods, initial, input, output, ciphers: None, step }
    }

    /// What is to be sent now.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// True once the other side has sent a key: it knows the protocol, or is no BitTorrent peer.
    #[must_use]
    pub fn has_key(&self) -> bool {
        !matches!(self.step, InitiatorStep::Key)
    }

    /// Takes what the other side sent. None: the exchange goes on; [`Initiator::output`] may have something.
    ///
    /// # Errors
    /// [`MseError`]: the exchange is over, close the connection.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<Agreed>, MseError> {
        self.input.0.extend_from_slice(bytes);
        loop {
            match self.step {
                InitiatorStep::Key => {
                    let Some(theirs) = self.input.take(KEY_LENGTH) else { return Ok(None) };
                    let shared = self.secret.shared(&theirs)?;
                    let (mut seal, mut open) = self.prove(&shared);
                    self.send_offer(&mut seal);
                    let mut mark = VERIFICATION;
                    open.apply(&mut mark);
                    self.ciphers = Some((seal, open));
                    self.step = InitiatorStep::Synchronise(mark);
                }
                InitiatorStep::Synchronise(mark) => match self.input.skip_to(&mark)? {
                    Some(()) => self.step = InitiatorStep::Pick,
                    None => return Ok(None),
                },
                InitiatorStep::Pick => {
                    let Some(bytes) = self.open(6) else { return Ok(None) };
                    let method = self.methods.picked(be_u32(&bytes, 0))?;
                    self.step = InitiatorStep::Pad(method, pad_length(&bytes, 4)?);
                }
                InitiatorStep::Pad(method, length) => {
                    if self.open(length).is_none() {
                        return Ok(None);
                    }
                    self.step = InitiatorStep::Over;
                    let rest = std::mem::take(&mut self.input);
                    return Ok(self.ciphers.take().map(|c| agreed(self.torrent, method, c, Vec::new(), rest)));
                }
                InitiatorStep::Over => return Ok(None),
            }
        }
    }

    fn open(&mut self, count: usize) -> Option<Vec<u8>> {
        self.input.open(count, &mut self.ciphers.as_mut()?.1)
    }

    /// Shows that we know the torrent, without naming it.
    fn prove(&mut self, shared: &[u8]) -> (Cipher, Cipher) {
        self.output.extend(hash(&[b"req1", shared]));
        let (which, veil) = (obfuscated(&self.torrent), hash(&[b"req3", shared]));
        self.output.extend(which.iter().zip(veil).map(|(a, b)| a ^ b));
        (Cipher::new(b"keyA", shared, &self.torrent), Cipher::new(b"keyB", shared, &self.torrent))
    }

    fn send_offer(&mut self, seal: &mut Cipher) {
        let mut offer = VERIFICATION.to_vec();
        offer.extend(self.methods.bits().to_be_bytes());
        // No pad: what lies between two sealed values hides nothing.
        offer.extend(0u16.to_be_bytes());
        offer.extend(u16::try_from(self.initial.len()).unwrap_or(0).to_be_bytes());
        offer.append(&mut self.initial);
        seal.apply(&mut offer);
        self.output.append(&mut offer);
    }
}

/// The side that was dialled. It sends a key and a pad to whoever has sent a key, and nothing more before the proof that
/// the other side knows a torrent of ours.
pub struct Responder {
    secret: Secret,
    pad: Vec<u8>,
    methods: Methods,
    input: Input,
    output: Vec<u8>,
    shared: [u8; KEY_LENGTH],
    torrent: [u8; 20],
    ciphers: Option<(Cipher, Cipher)>,
    step: ResponderStep,
}

enum ResponderStep {
    Key,
    Synchronise([u8; 20]),
    Torrent,
    Offer,
    Pad(Method, usize),
    Initial(Method, usize),
    Over,
}

impl Responder {
    /// Waits for an exchange. `most_pad`: bytes of our pad at the most; where the other side's address is not proved, it
    /// would make us send more than we were sent. `rng` as for [`Initiator::new`].
    #[must_use]
    pub fn new(methods: Methods, most_pad: usize, rng: &mut impl Rng) -> Self {
        let secret = Secret::new(rng);
        Self::with(secret, pad(rng, most_pad.min(MAX_PAD)), methods)
    }

    fn with(secret: Secret, pad: Vec<u8>, methods: Methods) -> Self {
        Self {
            secret,
            pad,
            methods,
            input: Input::default(),
            output: Vec::new(),
            shared: [0; KEY_LENGTH],
            torrent: [0; 20],
            ciphers: None,
            step: ResponderStep::Key,
        }
    }

    /// What is to be sent now.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes what the other side sent; `find` gives the torrent of an [`obfuscated`] info-hash. None: the exchange goes
    /// on; [`Responder::output`] may have something.
    ///
    /// # Errors
    /// [`MseError`]: the exchange is over, close the connection.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        find: impl Fn(&[u8; 20]) -> Option<[u8; 20]>,
    ) -> Result<Option<Agreed>, MseError> {
        self.input.0.extend_from_slice(bytes);
        loop {
            match self.step {
                ResponderStep::Key => {
                    let Some(theirs) = self.input.take(KEY_LENGTH) else { return Ok(None) };
                    self.shared = self.secret.shared(&theirs)?;
                    self.output.extend(self.secret.public());
                    self.output.append(&mut self.pad);
                    self.step = ResponderStep::Synchronise(hash(&[b"req1", &self.shared]));
                }
                ResponderStep::Synchronise(mark) => match self.input.skip_to(&mark)? {
                    Some(()) => self.step = ResponderStep::Torrent,
                    None => return Ok(None),
                },
                ResponderStep::Torrent => {
                    let Some(mut veiled) = self.input.take(20) else { return Ok(None) };
                    let veil = hash(&[b"req3", &self.shared]);
                    veiled.iter_mut().zip(veil).for_each(|(a, b)| *a ^= b);
                    let which = veiled.first_chunk().ok_or(MseError::Torrent)?;
                    self.torrent = find(which).ok_or(MseError::Torrent)?;
                    let open = Cipher::new(b"keyA", &self.shared, &self.torrent);
                    self.ciphers = Some((Cipher::new(b"keyB", &self.shared, &self.torrent), open));
                    self.step = ResponderStep::Offer;
                }
                ResponderStep::Offer => {
                    let Some(bytes) = self.open(14) else { return Ok(None) };
                    if !bytes.starts_with(&VERIFICATION) {
                        return Err(MseError::Verification);
                    }
                    let method = self.methods.pick(Methods::from_bits(be_u32(&bytes, 8)))?;
                    self.step = ResponderStep::Pad(method, pad_length(&bytes, 12)?);
                }
                ResponderStep::Pad(method, length) => {
                    let Some(bytes) = self.open(length + 2) else { return Ok(None) };
                    let length = be_u16(&bytes, length);
                    if usize::from(length) > MAX_INITIAL {
                        return Err(MseError::Initial(length));
                    }
                    self.step = ResponderStep::Initial(method, length.into());
                }
                ResponderStep::Initial(method, length) => {
                    let Some(ahead) = self.open(length) else { return Ok(None) };
                    self.step = ResponderStep::Over;
                    let Some((mut seal, open)) = self.ciphers.take() else { return Ok(None) };
                    let mut answer = VERIFICATION.to_vec();
                    answer.extend(if method == Method::Rc4 { Methods::RC4.bits() } else { 1 }.to_be_bytes());
                    answer.extend(0u16.to_be_bytes());
                    seal.apply(&mut answer);
                    self.output.append(&mut answer);
                    let rest = std::mem::take(&mut self.input);
                    return Ok(Some(agreed(self.torrent, method, (seal, open), ahead, rest)));
                }
                ResponderStep::Over => return Ok(None),
            }
        }
    }

    fn open(&mut self, count: usize) -> Option<Vec<u8>> {
        self.input.open(count, &mut self.ciphers.as_mut()?.1)
    }
}

#[cfg(test)]
#[path = "mse_tests.rs"]
mod tests;
