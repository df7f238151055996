//! What of volumes is used, by their drivers' word, asked when somebody wants to know and then kept for a while (upstream: `csi_metrics.go`,
//! `volume_stat_calculator.go`).

use super::{
    Csi,
    layout::VolumeData,
    protocol::{Ability, StatsRequest, VolumeUsage},
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How long an answer is good for (upstream: `volumeStatsAggPeriod`).
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long drivers may take for it: whoever asks has others to ask, too.
const CALL: Duration = Duration::from_secs(5);

/// By pod and the volume's name in it.
pub type Usages = HashMap<(String, String), Vec<VolumeUsage>>;

impl Csi {
    /// What is used of all volumes whose drivers tell.
    pub async fn usages(&self) -> Usages {
        let due = |(key, published): (&(String, String), &super::Published)| {
            published.usage.as_ref().is_none_or(|(at, _)| at.elapsed() >= GOOD_FOR).then(|| key.clone())
        };
        let due: Vec<_> = self.published.lock().iter().filter_map(due).collect();
        let asked = due.into_iter().map(|(uid, spec)| async move {
            // Who does not answer is not asked again at once either.
            let usage = tokio::time::timeout(CALL, self.usage(&uid, &spec)).await.ok().flatten().unwrap_or_default();
            if let Some(published) = self.published.lock().get_mut(&(uid, spec)) {
                published.usage = Some((Instant::now(), usage));
            }
        });
        futures::future::join_all(asked).await;
        let published = self.published.lock();
        let told = published.iter().filter_map(|((uid, _), p)| Some(((uid.clone(), p.name.clone()), p.usage.as_ref()?.1.clone())));
        told.filter(|(_, usage)| !usage.is_empty()).collect()
    }

    async fn usage(&self, uid: &str, spec_name: &str) -> Option<Vec<VolumeUsage>> {
        let dir = self.layout.published(uid, spec_name);
        let data = VolumeData::read(&dir).ok()?;
        let driver = self.driver(&data.driver_name).ok().filter(|driver| driver.can(Ability::GetVolumeStats))?;
        let volume_path = dir.join("mount").to_string_lossy().into_owned();
        let request = StatsRequest { volume_id: data.volume_handle, volume_path, staging_target_path: String::new() };
        driver.stats(request).await.ok().map(|answer| answer.usage)
    }
}
