//! The programs in `examples/`, run to their end.

#[path = "../../../examples/custom_authenticator.rs"]
mod custom_authenticator;
#[path = "../../../examples/embed.rs"]
mod embed;
#[path = "../../../examples/interceptor.rs"]
mod interceptor;

#[tokio::test]
async fn custom_authenticator_admits_clients_by_password_and_by_challenge_and_refuses_others() {
    let lines = custom_authenticator::run().await.unwrap();
    assert_eq!(
        lines,
        [
            "meter-7 with the password s3cret: admitted",
            "meter-7 with the password guessed: refused (BadUserNamePassword)",
            "meter-7, asked \"your code?\", answers 271828: admitted",
            "meter-7, asked \"your code?\", answers 000000: refused (0x86)"
        ]
    );
}

#[tokio::test]
async fn embed_receives_what_a_client_outside_publishes() {
    assert_eq!(embed::run().await.unwrap(), "received sensor/room1/temp 25.5");
}

#[tokio::test]
async fn interceptor_rejects_and_changes_messages() {
    let lines = interceptor::run().await.unwrap();
    let expected = [
        "a subscription to # is rejected: topic filter invalid (0x8F)",
        "devices/meter-7/kwh arrives as plant/1/meter-7/kwh from Some(\"meter-7\")",
        "a command is rejected: not authorized (0x87)",
    ];
    assert_eq!(lines, expected);
}
