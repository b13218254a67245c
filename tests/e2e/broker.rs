//! A test of the broker alone: with a faulty broker all further tests would prove nothing.

use anyhow::ensure;
use edr_tests::kafka::Broker;
use edr_tests::scene::Scene;
use edr_tests::topic::{produce, records};

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

pub(crate) fn keeps_what_it_stored(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    Scene::run("broker", |scene| {
        let mut broker = Broker::start(scene.path())?;
        broker.create_topic("t", 2)?;
        produce(&broker, "t", 1, b"key", b"\xffvalue")?;
        broker.stop();
        ensure!(std::net::TcpStream::connect(broker.address()).is_err(), "a stopped broker still listens");
        broker.resume()?;
        let stored = records(&broker, "t")?;
        let seen: Vec<_> =
            stored.iter().map(|r| (r.partition, r.offset, r.key.as_slice(), r.value.as_slice())).collect();
        ensure!(seen == [(1, 0, b"key".as_slice(), b"\xffvalue".as_slice())], "{seen:?}");
        PASSED
    })
}
