//! A program that goes on at random on streams that move in random order, and an oracle with the values that each task must see.

use std::collections::BTreeSet;

use super::task::*;
use super::*;

pub(super) struct Model {
    pub(super) bench: Bench,
    arrays: Vec<Array>,
    values: Vec<Values>,
    tasks: Vec<Task>,
    pub(super) dice: Dice,
    version: u32,
    pub(super) n_gpus: usize,
    ordered: bool,
    // What bodies on streams saw that they should not have.
    complaints: Arc<Mutex<Vec<String>>>,
    // Only what makes the number of bytes moved certain.
    pub(super) sparing: bool,
    // Devices fail.
    pub(super) faulty: bool,
    // Bytes that had to travel into each memory.
    pub(super) least: Vec<u64>,
    // By array and element: the memories that have it, if nothing is ever evicted.
    places: Vec<Vec<BTreeSet<usize>>>,
}

impl Model {
    pub(super) fn new(seed: u64, n_gpus: usize, capacity: u64, ordered: bool) -> Self {
        let bench = Bench::new(&vec![capacity; n_gpus]);
        bench.world.eager.store(false, Ordering::SeqCst);
        for gpu in &bench.gpus.0 {
            gpu.stream_ordered.store(ordered, Ordering::SeqCst);
        }
        let initial: Values = (0..(HEIGHT * WIDTH) as u32).map(Some).collect();
        Self {
            bench,
            arrays: (0..N_ARRAYS).map(|_| array(&[HEIGHT, WIDTH])).collect(),
            values: vec![initial; N_ARRAYS],
            tasks: Vec::new(),
            dice: Dice(seed),
            version: 1000,
            n_gpus,
            ordered,
            complaints: Arc::default(),
            sparing: false,
            faulty: false,
            least: vec![0; n_gpus + 1],
            places: vec![vec![BTreeSet::from([0]); HEIGHT * WIDTH]; N_ARRAYS],
        }
    }

    pub(super) fn index(&self, array: &Array) -> usize {
        self.arrays
            .iter()
            .position(|a| a.id() == array.id())
            .unwrap()
    }

    pub(super) fn device(&mut self) -> DeviceId {
        DeviceId(self.dice.roll(self.n_gpus + 1) as u32)
    }

    /// Something that can happen does. `false`: nothing can.
    pub(super) fn advance(&mut self) -> bool {
        let start = self.dice.roll(8);
        if start < 5 && self.bench.world.step(self.dice.roll(16)) {
            return true;
        }
        let n = self.tasks.len();
        let first = self.dice.roll(n.max(1));
        for i in 0..n {
            let i = (first + i) % n;
            if self.move_task(i) {
                self.tasks.retain(|task| !matches!(task.state, Stage::Over));
                return true;
            }
        }
        self.bench.world.step(self.dice.roll(16))
    }

    pub(super) fn drain(&mut self) {
        while self.advance() {}
        assert!(
            self.tasks.is_empty(),
            "nothing moves any more: {:?}",
            self.tasks
        );
        // What nobody uses is there to go.
        for memory in &self.bench.store.memories {
            let used = memory.used.load(Ordering::SeqCst);
            assert_eq!(used, memory.recency.lock().bytes());
        }
    }

    pub(super) fn move_task(&mut self, i: usize) -> bool {
        let task = &mut self.tasks[i];
        match std::mem::replace(&mut task.state, Stage::Over) {
            Stage::Staging(received) => match received.try_recv() {
                Err(mpsc::TryRecvError::Empty) => {
                    task.state = Stage::Staging(received);
                    false
                }
                Err(error) => panic!("a request was forgotten: {error}"),
                Ok(Ok(staged)) => {
                    assert!(!task.refused, "{task:?} reads what nobody knows");
                    task.state = Stage::Staged(staged);
                    true
                }
                Ok(Err(_)) if self.faulty => true,
                Ok(Err(error)) => {
                    assert!(task.refused, "{error}");
                    assert!(matches!(error, DataError::Invalid { .. }), "{error}");
                    true
                }
            },
            Stage::Staged(mut staged) => {
                if task.fate == Fate::NotBegun {
                    staged.end(Ended::NotBegun);
                    return true;
                }
                staged.begin();
                if self.faulty {
                    let (operands, devices) = (Arc::clone(&task.operands), task.devices.clone());
                    let (fate, version) = (task.fate, task.version);
                    self.foresee(&operands, &devices, fate, version);
                }
                let task = &self.tasks[i];
                let on_gpus = task.devices.iter().all(|d| d.0 > 0);
                if self.ordered && on_gpus && task.fate == Fate::Well {
                    self.launch(i, staged);
                    return true;
                }
                // A body that touches its data itself waits for it.
                for (_, event) in staged.events() {
                    while matches!(event.is_done(), Ok(false)) {
                        assert!(self.bench.world.step(self.dice.roll(16)), "it hangs");
                    }
                    if event.is_done().is_err() {
                        assert!(self.faulty);
                        staged.end(Ended::Badly("what it needed did not arrive".to_owned()));
                        return true;
                    }
                }
                // An event does not tell that what was copied was wrong already: what comes of it is not to be trusted.
                let taint = if self.faulty && self.ordered {
                    TAINT
                } else {
                    0
                };
                let complaints = body(&self.tasks[i], staged.places(), taint);
                assert!(complaints.is_empty() || taint != 0, "{complaints:?}");
                self.tasks[i].state = Stage::Begun(staged);
                true
            }
            Stage::Begun(staged) => {
                staged.end(match task.fate {
                    Fate::Badly => Ended::Badly("it failed".to_owned()),
                    _ => Ended::Well(Vec::new()),
                });
                true
            }
            Stage::Over => false,
        }
    }

    /// The body puts its work on a stream and returns.
    pub(super) fn launch(&mut self, i: usize, staged: Staged) {
        let task = &mut self.tasks[i];
        let complaints = Arc::clone(&self.complaints);
        let places = staged.places().to_vec();
        let faulty = self.faulty;
        let copy = Task {
            operands: Arc::clone(&task.operands),
            devices: task.devices.clone(),
            expected: task.expected.clone(),
            state: Stage::Over,
            ..*task
        };
        let kernel = move || {
            // What is wrong here is no fault as long as nobody sees what comes of it.
            let found = body(&copy, &places, if faulty { TAINT } else { 0 });
            if !faulty {
                complaints.lock().extend(found);
            }
        };
        let device = self.bench.store.machine().device(task.devices[0]);
        let event = device.stream().and_then(|stream| {
            for (_, event) in staged.events() {
                stream.wait(event)?;
            }
            stream.launch(Box::new(kernel), 0)?;
            stream.record()
        });
        staged.end(match event {
            Ok(event) => Ended::Well(vec![event]),
            Err(error) => Ended::Badly(error.to_string()),
        });
    }

    /// Lets things happen until no task is under way that these operands must come after.
    pub(super) fn order(&mut self, operands: &[Operand], strict: bool) {
        loop {
            let conflict = |task: &Task| {
                task.operands.iter().any(|a| {
                    operands.iter().any(|b| {
                        let boxes = strict || task.fate != Fate::Well || task.refused;
                        a.array.id() == b.array.id()
                            && (a.access.writes() || b.access.writes())
                            && if boxes {
                                a.region.intersection(&b.region).is_some()
                            } else {
                                !used_elements(a).is_disjoint(&used_elements(b))
                            }
                    })
                })
            };
            if !self.tasks.iter().any(conflict) {
                return;
            }
            assert!(self.advance(), "nothing moves any more: {:?}", self.tasks);
        }
    }

    pub(super) fn spawn(&mut self) {
        let two = self.n_gpus > 1 && self.dice.roll(6) == 0;
        let mut devices = vec![self.device()];
        if two {
            devices.push(DeviceId((devices[0].0 + 1) % (self.n_gpus as u32 + 1)));
        }
        let mut operands = Vec::new();
        for _ in 0..1 + self.dice.roll(3) {
            // On two devices each has arrays of its own: what a task's devices see of each other's writes is up to them.
            let slot = self.dice.roll(devices.len());
            let array = if two { slot } else { self.dice.roll(N_ARRAYS) };
            let access = [Access::Input, Access::Output, Access::InOut][self.dice.roll(3)];
            operands.push(Operand {
                array: self.arrays[array].clone(),
                region: self.dice.region(),
                access,
                exact: self.dice.roll(4) > 0,
                slot,
            });
        }
        if self.bench.store.check_fits(&operands, &devices, 0).is_err() {
            return;
        }
        let fate = match self.dice.roll(20) {
            0 => Fate::Badly,
            1 => Fate::NotBegun,
            _ => Fate::Well,
        };
        let lost = |o: &Operand| {
            let values = &self.values[self.index(&o.array)];
            o.fetches() && elements(&o.region).iter().any(|&e| values[e].is_none())
        };
        // Whether a box has an element that nobody knows may depend on those that are under way.
        let refused = operands.iter().any(lost);
        if refused && self.sparing {
            return;
        }
        let strict = self.sparing || self.faulty;
        self.order(&operands, fate != Fate::Well || refused || strict);
        // What went on meanwhile may have poisoned some of it.
        let refused = operands.iter().any(|o| {
            let values = &self.values[self.index(&o.array)];
            o.fetches() && elements(&o.region).iter().any(|&e| values[e].is_none())
        });
        let expected = operands.iter().map(|o| {
            let values = &self.values[self.index(&o.array)];
            used_elements(o)
                .iter()
                .map(|&e| values[e].filter(|_| o.access.reads()))
                .collect()
        });
        let expected = expected.collect();
        self.version += 1;
        if !refused && !self.faulty {
            self.foresee(&operands, &devices, fate, self.version);
        }
        let operands: Arc<[Operand]> = operands.into();
        let store = &self.bench.store;
        let quick = (self.dice.roll(2) == 0).then(|| store.try_stage(&operands, &devices));
        let state = match quick.flatten() {
            Some(staged) => {
                assert!(!refused);
                Stage::Staged(staged)
            }
            None => Stage::Staging(self.bench.stage(&operands, &devices)),
        };
        self.tasks.push(Task {
            operands,
            devices,
            version: self.version,
            fate,
            expected,
            refused,
            state,
        });
    }

    /// What a task does to the values, and to the places where they are.
    pub(super) fn foresee(
        &mut self,
        operands: &[Operand],
        devices: &[DeviceId],
        fate: Fate,
        version: u32,
    ) {
        for o in operands.iter().filter(|o| o.fetches()) {
            let (array, memory) = (self.index(&o.array), devices[o.slot].0 as usize);
            for element in elements(&o.region) {
                if self.places[array][element].insert(memory) {
                    self.least[memory] += ITEM as u64;
                }
            }
        }
        for o in operands.iter().filter(|o| o.access.writes()) {
            let (array, memory) = (self.index(&o.array), devices[o.slot].0 as usize);
            if fate == Fate::NotBegun {
                continue;
            }
            for element in elements(&o.region) {
                self.places[array][element] = BTreeSet::from([memory]);
                if fate == Fate::Badly {
                    self.values[array][element] = None;
                }
            }
            if fate == Fate::Well {
                for element in used_elements(o) {
                    self.values[array][element] = Some(version);
                }
            }
        }
    }

    /// A call that blocks, while the streams move.
    pub(super) fn blocking<R: Send>(&self, call: impl FnOnce(&Arc<Store>) -> R + Send) -> R {
        std::thread::scope(|scope| {
            let store = &self.bench.store;
            let called = scope.spawn(|| call(store));
            let mut n_idle = 0_u64;
            while !called.is_finished() {
                if !self.bench.world.step(0) {
                    n_idle += 1;
                    assert!(n_idle < 1_000_000_000, "it hangs");
                    std::thread::yield_now();
                }
            }
            called.join().unwrap()
        })
    }

    pub(super) fn host(&mut self) {
        let a = self.dice.roll(N_ARRAYS);
        let array = self.arrays[a].clone();
        let region = self.dice.region();
        let write = self.dice.roll(3) == 0;
        let access = if write { Access::InOut } else { Access::Input };
        self.order(&[operand(&array, region.clone(), access)], true);
        let known = elements(&region)
            .iter()
            .all(|&e| self.values[a][e].is_some());
        let done = self.blocking(|store| store.to_host(&array, &region, write));
        if self.faulty && done.is_err() {
            return;
        }
        assert_eq!(done.is_ok(), known || write, "{done:?}");
        if known || write {
            for element in elements(&region) {
                if self.values[a][element].is_some() && self.places[a][element].insert(0) {
                    self.least[0] += ITEM as u64;
                }
            }
        }
        // Who writes may find what nobody knows any more.
        if known && !(self.faulty && write) {
            let values: Values = home_of(&array, &region).into_iter().map(Some).collect();
            let expected: Values = elements(&region)
                .iter()
                .map(|&e| self.values[a][e])
                .collect();
            assert_eq!(values, expected);
        }
        if write {
            self.version += 1;
            for (element, address) in elements(&region)
                .into_iter()
                .zip(home_addresses(&array, &region))
            {
                self.places[a][element] = BTreeSet::from([0]);
                self.values[a][element] = Some(self.version);
                // SAFETY: it is the address of an element of the home, which nobody uses now.
                unsafe { (address as *mut u32).write(self.version) };
            }
        }
    }

    pub(super) fn prefetch(&mut self) {
        let array = self.arrays[self.dice.roll(N_ARRAYS)].clone();
        let wanted = operand(&array, self.dice.region(), Access::Input);
        let device = self.device();
        self.bench
            .store
            .prefetch(&wanted, device, &Ahead::surely(), Box::new(|| ()));
    }

    pub(super) fn evict(&mut self) {
        let array = self.arrays[self.dice.roll(N_ARRAYS)].clone();
        let memory = MemoryId(self.dice.roll(self.n_gpus + 1) as u32);
        let all = self.dice.roll(4) == 0;
        let evicted = self.blocking(|store| {
            if all {
                store.flush(&array)
            } else {
                store.evict(&array, memory)
            }
        });
        assert!(self.faulty || evicted.is_ok(), "{evicted:?}");
    }

    pub(super) fn check(&self) {
        for array in &self.arrays {
            let state = array.0.state.lock();
            state.directory.check().unwrap();
        }
        let complaints = self.complaints.lock();
        assert!(complaints.is_empty(), "{complaints:?}");
        for gpu in &self.bench.gpus.0 {
            let used = parla_device::Device::memory_used(&**gpu);
            assert!(used <= parla_device::Device::memory_capacity(&**gpu));
        }
    }

    /// Everything comes home, and nothing is left.
    pub(super) fn finish(mut self) {
        self.drain();
        self.check();
        let closed = self.blocking(Store::close);
        assert!(self.faulty || closed.is_ok(), "{closed:?}");
        for (array, values) in self.arrays.iter().zip(&self.values) {
            let home = home_of(array, &Region::whole(array.shape()));
            let state = array.0.state.lock();
            for (region, holders, _) in state.directory.entries() {
                for element in elements(region) {
                    let value = values[element].filter(|_| !(self.faulty && holders.is_empty()));
                    assert!(
                        value.is_none_or(|value| value == home[element]),
                        "element {element}"
                    );
                    assert_eq!(holders.is_empty(), value.is_none(), "element {element}");
                }
            }
            assert_eq!(state.instances.len(), 1);
            assert!(state.writers.is_empty() && state.home().outstanding.is_empty());
        }
        for memory in self.bench.store.stats().memories {
            assert_eq!(memory.used, 0);
        }
        for gpu in &self.bench.gpus.0 {
            assert_eq!(parla_device::Device::memory_used(&**gpu), 0);
        }
    }
}
