//! What an autoscaler's status says.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, MetricStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Sets a condition; its time changes with its status alone.
pub fn set_condition(hpa: &mut HorizontalPodAutoscaler, condition_type: &str, yes: bool, reason: &str, message: &str, now: Timestamp) {
    let status = if yes { "True" } else { "False" };
    let conditions = hpa.status.get_or_insert_default().conditions.get_or_insert_default();
    let condition = match conditions.iter_mut().find(|condition| condition.type_ == condition_type) {
        Some(condition) => condition,
        None => {
            conditions.push(HorizontalPodAutoscalerCondition { type_: condition_type.to_owned(), ..Default::default() });
            conditions.last_mut().expect("one was just pushed")
        }
    };
    if condition.status != status {
        condition.status = status.to_owned();
        condition.last_transition_time = Some(Time(now));
    }
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
}

/// Sets the numbers and what was measured.
pub fn set_replicas(hpa: &mut HorizontalPodAutoscaler, current: i32, desired: i32, metrics: Vec<MetricStatus>, scaled: Option<Timestamp>) {
    let status = hpa.status.get_or_insert_default();
    status.current_replicas = Some(current);
    status.desired_replicas = desired;
    status.current_metrics = Some(metrics).filter(|metrics| !metrics.is_empty());
    // Whole seconds are what is stored.
    let seconds = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time);
    status.last_scale_time = scaled.map(|time| Time(seconds(time))).or(status.last_scale_time.take());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conditions_time_is_that_of_its_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut hpa = HorizontalPodAutoscaler::default();
        for (second, yes, reason, expected) in [(1, true, "A", 1), (2, true, "B", 1), (3, false, "B", 3)] {
            set_condition(&mut hpa, "AbleToScale", yes, reason, "m", at(second));
            let condition = &hpa.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
            assert_eq!((condition.last_transition_time.clone(), condition.reason.as_deref()), (Some(Time(at(expected))), Some(reason)));
        }
    }
}
