//! The state machine alone, with made-up times: when operations start and end.

use super::*;

const ENGINES: usize = 3;

/// A state whose workers and timers are played by the test: work takes no time, operations end exactly when their time is over.
struct World {
    state: State,
    start: Instant,
    now: Instant,
    // Name, start and end in milliseconds of what has ended, in that order.
    ended: Vec<(u64, u64)>,
}

impl World {
    fn new(n_devices: usize) -> Self {
        let start = Instant::now();
        Self {
            state: State::new(n_devices, ENGINES, start),
            start,
            now: start,
            ended: Vec::new(),
        }
    }

    fn lane(&mut self, device: usize) -> usize {
        self.state.open(device, self.now).unwrap()
    }

    fn push(&mut self, lane: usize, item: Item) -> Effects {
        let mut effects = Effects::default();
        self.state.push(lane, item, self.now, &mut effects).unwrap();
        effects
    }

    fn operation(&mut self, lane: usize, engines: &[usize], ms: u64) {
        let operation = Operation {
            work: Work::Kernel(Box::new(|| {})),
            engines: Engines::from_slice(engines),
            busy: Duration::from_millis(ms),
            loses: None,
        };
        self.push(lane, Item::Operation(operation));
    }

    fn record(&mut self, lane: usize) -> Arc<QueueEvent> {
        let event = Arc::new(QueueEvent::new(std::process::id()));
        let effects = self.push(lane, Item::Record(Arc::clone(&event)));
        complete(effects);
        event
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from((at - self.start).as_millis()).unwrap()
    }

    /// Lets everything happen, each end noticed `late` milliseconds after its time.
    fn run(&mut self, late: u64) {
        let mut running: Vec<(Instant, usize, Ticket, Operation)> = Vec::new();
        loop {
            while let Some(job) = self.state.jobs.pop_front() {
                if let Job::Operation {
                    lane,
                    ticket,
                    operation,
                    starts_at,
                } = job
                {
                    let ends_at = Operation::end(starts_at, operation.busy, Duration::ZERO);
                    running.push((ends_at, lane, ticket, operation));
                }
            }
            running.sort_by_key(|operation| operation.0);
            if running.is_empty() {
                return;
            }
            let (at, lane, ticket, operation) = running.remove(0);
            self.now = self.now.max(at + Duration::from_millis(late));
            let (start, end) = (self.ms(at - operation.busy), self.ms(at));
            self.ended.push((start, end));
            let mut effects = Effects::default();
            let result = Ok(());
            let end = End { result, at };
            self.state
                .finish(lane, ticket, &operation.engines, end, &mut effects);
            complete(effects);
        }
    }
}

fn complete(effects: Effects) {
    for (event, end) in effects.completed {
        event.complete(end);
    }
}

#[test]
fn an_engine_does_one_thing_at_a_time_and_engines_overlap() {
    let mut world = World::new(1);
    let lanes = [0, 0, 0, 0].map(|device| world.lane(device));
    world.operation(lanes[0], &[0], 40);
    world.operation(lanes[1], &[0], 40);
    world.operation(lanes[2], &[1], 30);
    world.operation(lanes[3], &[2], 20);
    world.run(0);
    assert_eq!(world.ended, [(0, 20), (0, 30), (0, 40), (40, 80)]);
}

#[test]
fn a_pipeline_of_copies_and_kernels_is_full() {
    let mut world = World::new(1);
    let lanes = [0, 0, 0].map(|device| world.lane(device));
    // Copy in, compute, copy out, three rounds on streams of their own: the longest stage sets the pace.
    for lane in lanes {
        world.operation(lane, &[1], 10);
        world.operation(lane, &[0], 10);
        world.operation(lane, &[2], 10);
    }
    world.run(0);
    assert_eq!(world.ended.last(), Some(&(40, 50)));
}

#[test]
fn being_noticed_late_does_not_add_up() {
    let mut world = World::new(1);
    let lane = world.lane(0);
    for _ in 0..10 {
        world.operation(lane, &[1], 10);
    }
    world.run(3);
    assert_eq!(world.ended.last(), Some(&(90, 100)));
}

#[test]
fn work_that_comes_later_starts_later() {
    let mut world = World::new(1);
    let lane = world.lane(0);
    world.operation(lane, &[1], 10);
    world.run(0);
    world.now += Duration::from_millis(90);
    world.operation(lane, &[1], 10);
    world.run(0);
    assert_eq!(world.ended, [(0, 10), (100, 110)]);
}

#[test]
fn nobody_overtakes_on_an_engine_that_another_waits_for() {
    let mut world = World::new(2);
    let lanes = [0, 0, 1, 1].map(|device| world.lane(device));
    world.operation(lanes[0], &[2], 30);
    // From device 0 to device 1: needs both engines, and waits for the first.
    world.operation(lanes[1], &[2, 4], 10);
    world.operation(lanes[2], &[4], 100);
    world.operation(lanes[3], &[3], 5);
    world.run(0);
    assert_eq!(world.ended, [(0, 5), (0, 30), (30, 40), (40, 140)]);
}

#[test]
fn streams_that_wait_start_when_the_event_was_done() {
    let mut world = World::new(1);
    let (first, second) = (world.lane(0), world.lane(0));
    world.operation(first, &[0], 10);
    let event = world.record(first);
    world.run(2);
    assert_eq!(world.ms(world.now), 12);
    world.push(second, Item::Wait(event));
    world.operation(second, &[1], 10);
    world.run(0);
    // Not at 10, when it was not enqueued yet.
    assert_eq!(world.ended, [(0, 10), (12, 22)]);
}

#[test]
fn after_an_error_nothing_is_done_until_the_next_event_which_tells() {
    let mut world = World::new(1);
    let lane = world.lane(0);
    world.operation(lane, &[0], 10);
    world.operation(lane, &[0], 20);
    let (bad, good) = (world.record(lane), world.record(lane));
    let Some(Job::Operation { lane, ticket, .. }) = world.state.jobs.pop_front() else {
        panic!("the first operation starts at once");
    };
    let error = DeviceError::NoCores;
    let end = End {
        result: Err(error),
        at: world.now,
    };
    let mut effects = Effects::default();
    world.state.finish(lane, ticket, &[0], end, &mut effects);
    assert_eq!(effects.garbage.len(), 1, "the second operation is skipped");
    complete(effects);
    assert!(world.state.jobs.is_empty());
    assert!(bad.end().unwrap().result.is_err());
    assert!(good.end().unwrap().result.is_ok());
    assert_eq!(world.state.is_idle(lane).ok(), Some(true));
}

#[test]
fn the_engine_that_a_lost_device_held_of_another_is_free_once_its_work_is_done() {
    let mut world = World::new(2);
    let (a, b) = (world.lane(0), world.lane(1));
    world.operation(a, &[2, 4], 10);
    world.operation(b, &[4], 10);
    let mut effects = Effects::default();
    let error = DeviceError::NoCores;
    world.state.lose(0, error, world.now, &mut effects);
    assert!(world.state.open(0, world.now).is_err());
    world.run(0);
    assert_eq!(world.ended, [(0, 10), (10, 20)]);
    assert_eq!(world.state.is_idle(b).ok(), Some(true));
}
