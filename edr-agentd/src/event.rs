//! The kinds of events in the journal. Meanings and remedies are in the catalogue
//! `packaging/systemd/edr-agentd.catalog`.

edr_daemon::events! {
    /// The first snapshot is in the spool.
    Ready = "af0ed2f1f12f45fb8849887b7d538798",
    /// The agent stopped in good order.
    Stopped = "d877aef437e2424eac94a5b3aa0d92be",
    /// The agent ends by itself: the start failed, or a thread ended.
    CannotStart = "190e8f41ece94c7a9176330141801058",
    /// How things are: when the first frame arrived, and once an hour.
    Hour = "18015a7f035a44388654c6cb63e93ba6",
    /// SIGHUP: another configuration is in effect.
    ConfigurationTaken = "68b7b4b8ec444589bd0c28b687c9b9d8",
    /// SIGHUP: the new configuration is wrong, or needs a restart; the old configuration stays.
    ConfigurationRefused = "adc6d95cc6f84ae0a9dd096fa62eff33",
    /// A certificate or a secret changed and is used now.
    SecretsRenewed = "a035e2e14d3a4763a2e8166b6192f934",
    /// A certificate or a secret changed and does not do.
    SecretsRefused = "57b78478f43e43e0b25958cd63deac2c",
    /// No broker takes frames.
    KafkaAway = "e01737ef040b440086193565a58740d1",
    /// A broker refuses this client, its frames or its topic.
    KafkaRefuses = "b03cbf43db784bc1b52476c6c7a193cd",
    /// Kafka takes frames again.
    KafkaBack = "b3ec3af831f54d5ab7b4500a0de57f60",
    /// The disk does not take frames: they are kept in memory.
    SpoolUnusable = "47394c9c6c9f44b7913d0a36273a5bb6",
    /// The disk takes frames again.
    SpoolUsable = "cc3712219f5947f08880b234442dfd4f",
    /// A frame in the spool is damaged and is declared lost.
    SpoolDamaged = "b53788a00144440a9107d83735151325",
    /// A frame in the spool cannot be read now; the read is retried.
    SpoolUnreadable = "b3973cf3fdcf4843a733709518606886",
    /// The spool is full, and frames are given up.
    SpoolFull = "46904795461540abb8f9128b1e8855b3",
    /// A frame is ten times as large as usual.
    FrameLarge = "48a61e58d2894be9ba50c76ba2959aa9",
    /// Snapshots show less than there is.
    Degraded = "8b7b0d64c69e47f588bc307d0c9f5672",
    /// Snapshots show everything again.
    Whole = "937e1c842fc04a0f8f8ff8ff01b325bd",
    /// Snapshots were not taken when they were due.
    TicksMissed = "e5a92c968745413688bf21fb37dfb452",
    /// A snapshot became no frame.
    SnapshotLost = "9a3151ae12324c00bff8f05a1ea52413",
    /// A new epoch begins, or an old epoch continues.
    EpochBegins = "ed9843b6a28943b292755fee23897c80",
    /// `edr-agentd status` cannot be answered.
    StatusUnavailable = "1bd2b08a34e64be2bed0c787a9f7ba1f",
    /// SIGABRT: the agent logs the state of each thread, and ends.
    Aborted = "e7b5ebccc89d4074bb891de7a4f6e9b3",
}
