//! Kinds of the collector's journal entries. The catalogue `packaging/systemd/edr-collectd.catalog` explains each kind
//! and its remedy.

edr_daemon::events! {
    /// The collector archives records, and the page answers.
    Ready = "3b2e57ce85484d60928e5c76da81c289",
    /// The collector stopped after a signal, without an error.
    Stopped = "8f7def4d9d10400b9e121a27a7901bdc",
    /// The collector exits with an error: a start failed, or a task ended on its own.
    CannotStart = "a7311ddebe564b5aaa4f981c01729318",
    /// The status, once an hour.
    Hour = "ccdfd019dba6426888414693aa83cf8f",
    /// SIGHUP: a new configuration is in effect.
    ConfigurationTaken = "8e01a9e53b7a49bbbced496ccb54808b",
    /// SIGHUP: the configuration is invalid, or a part of the changes needs a restart.
    ConfigurationRefused = "dad44c6c6c2c417397932fe367fc51dd",
    /// Kafka settings, a certificate or a secret changed and are in use now.
    SecretsRenewed = "d54ffca3e92b4bdfb4cf8630e3078b24",
    /// Kafka settings, a certificate or a secret changed and are invalid; the old ones stay.
    SecretsRefused = "db8f46f2d6e643d4a894d241f9c27f52",
    /// No broker is usable.
    KafkaAway = "2269aa4edd6c443d9160aeaf7d624c1c",
    /// A broker refuses a request.
    KafkaRefuses = "a4ba52665cf0456f8c34d103c621c485",
    /// Reading of partitions started, where the archive ends.
    KafkaReading = "f74c3f0d7f6e4e578f5dd1e669df5c9a",
    /// Kafka deleted records before they were archived.
    RecordsGone = "4afe51257fdd46d0b98822420efe0efa",
    /// A batch of Kafka cannot be read; the batch is archived as one record with its fault.
    BatchUnreadable = "5d1f0c5b0a0e4f6db6a2a3d0c1f7e94b",
    /// A record is not a frame; the record is archived with its fault.
    NoFrame = "7f0352f349874133961072e565e4f799",
    /// One frame came with two contents; both are archived.
    TwoContents = "536eccbf167e4f46aba3d75cbba1cedd",
    /// A frame has a number or a time that cannot be right; the frame is archived and not the newest of its host.
    FrameInDoubt = "e2d9c1f4a6b84d7e9c035f1b8a72d6e4",
    /// Writing to the archive failed; the write is retried.
    ArchiveFails = "074c83fb0a054217897c090a51474585",
    /// Another collector archived the same records; this collector reads again from the end of the archive.
    ArchiveTaken = "d0d5e98b930c43a68c4b888c8a73307b",
    /// The archive has another number of records of a day than were archived: rows were removed.
    RowsRemoved = "5d0a3f6e1c7b4d0f9b1e8a52c6f43e17",
    /// A data file of the archive cannot be read; its rows are missing.
    FileDamaged = "6f2d1a0b8c734e5f9a41d7c3e85b2604",
    /// Some parts of a frame never arrived.
    FrameIncomplete = "c1b9f0d27a5e4b6c8d3f21e60a94b7d8",
    /// More hosts send snapshots than the list of hosts may have.
    TooManyHosts = "42b9151c8bbd456f9f2c027a834217a2",
}
