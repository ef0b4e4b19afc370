use proptest::prelude::*;

use super::super::chunks::Chunks;
use super::*;
use crate::metainfo::PieceIndex;

fn request(length: u32) -> Request {
    Request { piece: PieceIndex(3), begin: 16384, length }
}

fn block(fill: u8, length: u32) -> Payload {
    let length = length as usize;
    let mut chunk = Arc::<Chunks>::default().get(length);
    chunk.as_mut().fill(fill);
    Payload::Chunk(Arc::new(chunk), 0..length)
}

/// Writes at most `most` bytes.
fn write(outbox: &mut Outbox, most: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let count = outbox.slices(&mut slices);
    let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).take(most).collect();
    outbox.advance(bytes.len());
    bytes
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

#[test]
fn what_we_ask_for_passes_the_blocks_that_are_not_begun() {
    let mut outbox = Outbox::default();
    outbox.push_block(request(100), block(1, 100));
    outbox.push_block(request(100), block(2, 100));
    // The first block is begun: its header, then a part of its payload.
    let mut seen = write(&mut outbox, 5);
    outbox.push(&Message::Interested);
    seen.extend(write(&mut outbox, 30));
    outbox.push(&Message::Request(request(16384)));
    while outbox.len() > 0 {
        seen.extend(write(&mut outbox, 7));
    }
    let header = wire::piece_header(request(100));
    let wanted = [
        &header[..],
        &[1; 100],
        &encoded(&Message::Interested),
        &encoded(&Message::Request(request(16384))),
        &header,
        &[2; 100],
    ];
    assert_eq!(seen, wanted.concat());
}

#[test]
fn a_choke_and_a_reject_keep_their_place_among_the_blocks() {
    let mut outbox = Outbox::default();
    outbox.push(&Message::Unchoke);
    outbox.push_block(request(10), block(1, 10));
    outbox.push(&Message::Choke);
    outbox.push(&Message::Reject(request(7)));
    outbox.push(&Message::Have(PieceIndex(1)));
    let seen = write(&mut outbox, usize::MAX);
    let wanted = [
        encoded(&Message::Unchoke),
        encoded(&Message::Have(PieceIndex(1))),
        wire::piece_header(request(10)).to_vec(),
        vec![1; 10],
        encoded(&Message::Choke),
        encoded(&Message::Reject(request(7))),
    ];
    assert_eq!(seen, wanted.concat());
    assert_eq!(outbox.len(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Block(u8, u32),
    Ask(u32),
    Choke,
    Write(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<u8>(), 1u32..400).prop_map(|(fill, length)| Step::Block(fill, length)),
        (0u32..1000).prop_map(Step::Ask),
        Just(Step::Choke),
        (0usize..900).prop_map(Step::Write),
    ]
}

proptest! {
    /// Whatever comes in and however it is written: whole messages come out, the blocks and chokes in their order, what
    /// we ask for in its own.
    #[test]
    fn whole_messages_come_out_in_order(steps in proptest::collection::vec(step(), 1..80)) {
        let mut outbox = Outbox::default();
        let (mut seen, mut blocks, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Block(fill, length) => {
                    outbox.push_block(request(length), block(fill, length));
                    blocks.push([&wire::piece_header(request(length))[..], &vec![fill; length as usize]].concat());
                }
                Step::Ask(begin) => {
                    let message = Message::Request(Request { begin, ..request(1) });
                    outbox.push(&message);
                    asked.push(encoded(&message));
                }
                Step::Choke => {
                    outbox.push(&Message::Choke);
                    blocks.push(encoded(&Message::Choke));
                }
                Step::Write(most) => seen.extend(write(&mut outbox, most)),
            }
        }
        while outbox.len() > 0 {
            seen.extend(write(&mut outbox, usize::MAX));
        }
        let (mut blocks_seen, mut asked_seen, mut rest) = (Vec::new(), Vec::new(), &seen[..]);
        while let Some((length, _)) = rest.split_first_chunk() {
            let (message, after) = rest.split_at(4 + u32::from_be_bytes(*length) as usize);
            if message[4] == 6 { asked_seen.push(message.to_vec()) } else { blocks_seen.push(message.to_vec()) }
            rest = after;
        }
        prop_assert_eq!(blocks_seen, blocks);
        prop_assert_eq!(asked_seen, asked);
    }
}
