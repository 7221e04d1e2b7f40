use super::*;
use proptest::prelude::*;

const TABLE_AT: u64 = 0x10_0000;

fn walk_all(queue: &[Descriptor], table: &[Descriptor], head: u16) -> Result<Vec<Buffer>, ChainFault> {
    let mut walk = Walk::new(head, queue.len() as u16, Indirect::Negotiated);
    let mut found = Vec::new();
    let read = |from: Table, index: u16| match from {
        Table::Queue => Some(queue[usize::from(index)]),
        Table::Indirect(TABLE_AT) => table.get(usize::from(index)).copied(),
        Table::Indirect(_) => None,
    };
    while let Some(buffer) = walk.next(read)? {
        found.push(buffer);
    }
    Ok(found)
}

fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { addr, len, flags, next }
}

fn any_descriptor(entries: u16) -> impl Strategy<Value = Descriptor> {
    let addr = prop_oneof![Just(TABLE_AT), any::<u64>(), 0u64..0x10000];
    let len = prop_oneof![0u32..300, any::<u32>()];
    let next = prop_oneof![9 => 0..entries, 1 => any::<u16>()];
    (addr, len, 0u16..8, next).prop_map(|(addr, len, flags, next)| descriptor(addr, len, flags, next))
}

/// The chain as a driver lays it: `links` says which entries it uses, in order.
fn lay(buffers: &[(u64, u32, Direction)], links: &[u16], entries: u16) -> Vec<Descriptor> {
    let mut table = vec![descriptor(0, 0, 0, 0); usize::from(entries)];
    for (at, (addr, len, direction)) in buffers.iter().enumerate() {
        let write = if *direction == Direction::Writable { WRITE } else { 0 };
        let (next, has) = links[..buffers.len()].get(at + 1).map_or((0, 0), |next| (*next, NEXT));
        table[usize::from(links[at])] = descriptor(*addr, *len, write | has, next);
    }
    table
}

proptest! {
    #[test]
    fn descriptors_keep_their_bytes(bytes: [u8; 16]) {
        prop_assert_eq!(Descriptor::decode(bytes).encode(), bytes);
    }

    /// Whatever a guest writes, the walk ends, is bounded, and what comes out keeps the rules.
    #[test]
    fn any_tables_end_in_bounded_order(
        queue in prop::collection::vec(any_descriptor(64), 64),
        table in prop::collection::vec(any_descriptor(32), 0..32),
        head: u16,
    ) {
        if let Ok(buffers) = walk_all(&queue, &table, head) {
            prop_assert!(buffers.len() <= 2 * usize::from(CHAIN_MAX));
            prop_assert!(buffers.iter().all(|b| b.addr.checked_add(u64::from(b.len)).is_some()));
            prop_assert!(buffers.is_sorted_by_key(|b| b.direction == Direction::Writable));
        }
    }

    /// A driver's chain comes out as it was laid, directly or through a table.
    #[test]
    fn a_good_chain_comes_out_whole(
        sizes in prop::collection::vec((0u64..1 << 40, 0u32..1 << 20), 1..64),
        readable in 0usize..64,
        links in Just((0u16..64).collect::<Vec<_>>()).prop_shuffle(),
        within in 0u16..64,
    ) {
        let direction = |at| if at < readable { Direction::Readable } else { Direction::Writable };
        let buffers: Vec<_> = sizes.iter().enumerate().map(|(at, (addr, len))| (*addr, *len, direction(at))).collect();
        let expected: Vec<_> =
            buffers.iter().map(|(addr, len, direction)| Buffer { addr: *addr, len: *len, direction: *direction }).collect();
        let queue = lay(&buffers, &links, 64);
        prop_assert_eq!(walk_all(&queue, &[], links[0]), Ok(expected.clone()));

        let straight: Vec<u16> = (0..64).collect();
        let table = lay(&buffers, &straight, 64);
        let mut queue = vec![descriptor(0, 0, 0, 0); 64];
        queue[usize::from(within)] = descriptor(TABLE_AT, 64 * DESCRIPTOR_LEN, INDIRECT, 0);
        prop_assert_eq!(walk_all(&queue, &table, within), Ok(expected));
    }
}

#[test]
fn each_rule_has_its_fault() {
    let fault = |queue: &[Descriptor], table: &[Descriptor]| walk_all(queue, table, 0).unwrap_err();
    assert_eq!(fault(&[descriptor(0, 1, NEXT, 0)], &[]), ChainFault::TooLong);
    assert_eq!(fault(&[descriptor(0, 1, NEXT, 1), descriptor(0, 1, NEXT, 0)], &[]), ChainFault::TooLong);
    assert_eq!(fault(&[descriptor(0, 1, NEXT, 7)], &[]), ChainFault::Index(7));
    assert_eq!(fault(&[descriptor(u64::MAX, 1, 0, 0)], &[]), ChainFault::Wraps);
    assert_eq!(fault(&[descriptor(0, 1, WRITE | NEXT, 1), descriptor(0, 1, 0, 0)], &[]), ChainFault::Order);
    assert_eq!(fault(&[descriptor(TABLE_AT, 17, INDIRECT, 0)], &[]), ChainFault::TableLength(17));
    assert_eq!(fault(&[descriptor(TABLE_AT, 0, INDIRECT, 0)], &[]), ChainFault::TableLength(0));
    assert_eq!(fault(&[descriptor(TABLE_AT, 16, INDIRECT | NEXT, 0)], &[]), ChainFault::IndirectNext);
    assert_eq!(fault(&[descriptor(5, 16, INDIRECT, 0)], &[]), ChainFault::Table);
    let nested = [descriptor(TABLE_AT, 16, INDIRECT, 0)];
    assert_eq!(fault(&nested, &nested), ChainFault::Nested);
    let around = [descriptor(0, 1, NEXT, 0)];
    assert_eq!(fault(&nested, &around), ChainFault::TooLong);
}

#[test]
fn an_indirect_table_must_have_been_negotiated() {
    let mut walk = Walk::new(0, 1, Indirect::NotNegotiated);
    let read = |_, _| Some(descriptor(TABLE_AT, 16, INDIRECT, 0));
    assert_eq!(walk.next(read), Err(ChainFault::NotNegotiated));
}
