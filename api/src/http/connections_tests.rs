use super::*;

const MS: Duration = Duration::from_millis(1);

/// Ticks of 10 ms: 10 for a head, 20 for an idle connection, 30 for a client that takes nothing.
fn table() -> Arc<Connections> {
    let limits = ConnectionLimits {
        head_timeout: 100 * MS,
        idle_timeout: 200 * MS,
        write_timeout: 300 * MS,
        ..ConnectionLimits::default()
    };
    Arc::new(Connections::new(&limits))
}

fn after(connections: &Connections, ticks: u32, entry: &Entry) -> Order {
    (0..ticks).for_each(|_| connections.look());
    entry.connection().order(Waker::noop())
}

#[test]
fn an_idle_connection_is_closed_and_then_cut() {
    let connections = table();
    let entry = connections.enter(1);
    assert_eq!(after(&connections, 20, &entry), Order::Open);
    assert_eq!(after(&connections, 1, &entry), Order::Close);
    assert_eq!(after(&connections, 1, &entry), Order::Cut);
}

#[test]
fn a_head_that_arrives_byte_by_byte_is_cut_by_the_time_of_its_first_byte() {
    let connections = table();
    let entry = connections.enter(1);
    assert_eq!(after(&connections, 15, &entry), Order::Open);
    for _ in 0..10 {
        entry.connection().received();
        assert_eq!(after(&connections, 1, &entry), Order::Open);
    }
    entry.connection().received();
    assert_eq!(after(&connections, 1, &entry), Order::Cut);
}

#[test]
fn a_connection_with_a_request_in_progress_is_never_idle() {
    let connections = table();
    let entry = connections.enter(1);
    entry.connection().received();
    let busy = entry.connection().begin_request();
    assert_eq!(after(&connections, 1_000, &entry), Order::Open);
    drop(busy);
    assert_eq!(after(&connections, 20, &entry), Order::Open, "it was busy until now");
    assert_eq!(after(&connections, 1, &entry), Order::Close);
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_and_one_that_takes_it_slowly_is_not() {
    let connections = table();
    let (never, slowly) = (connections.enter(1), connections.enter(2));
    let _busy = slowly.connection().begin_request();
    let _busy = never.connection().begin_request();
    never.connection().cannot_send();
    for _ in 0..5 {
        slowly.connection().cannot_send();
        assert_eq!(after(&connections, 29, &slowly), Order::Open);
        slowly.connection().sent(297); // what the least rate moves in 29 ticks
    }
    assert_eq!(after(&connections, 0, &never), Order::Cut);
}

#[test]
fn a_client_that_takes_a_byte_before_each_time_out_is_cut() {
    let connections = table();
    let entry = connections.enter(1);
    let _busy = entry.connection().begin_request();
    entry.connection().cannot_send();
    assert_eq!(after(&connections, 29, &entry), Order::Open);
    entry.connection().sent(1);
    entry.connection().cannot_send();
    assert_eq!(after(&connections, 1, &entry), Order::Open);
    assert_eq!(after(&connections, 1, &entry), Order::Cut);
}

#[test]
fn time_in_which_there_is_nothing_to_send_is_not_the_clients() {
    let connections = table();
    let entry = connections.enter(1);
    let _busy = entry.connection().begin_request();
    for _ in 0..100 {
        entry.connection().sent(1);
        assert_eq!(after(&connections, 100, &entry), Order::Open);
    }
}

#[test]
fn requests_keep_a_connection_open() {
    let connections = table();
    let entry = connections.enter(1);
    for _ in 0..5 {
        assert_eq!(after(&connections, 15, &entry), Order::Open);
        drop(entry.connection().begin_request());
    }
}

#[tokio::test]
async fn the_table_is_empty_once_the_last_entry_is_dropped() {
    let connections = table();
    let (first, second) = (connections.enter(1), connections.enter(2));
    assert_eq!(connections.count(), 2);
    drop(first);
    let mut emptied = Box::pin(connections.emptied());
    assert!(futures::poll!(&mut emptied).is_pending());
    drop(second);
    emptied.await;
}
