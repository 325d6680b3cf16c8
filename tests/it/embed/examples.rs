//! The programs in `examples/`, run to their end.

#[path = "../../../examples/custom_authenticator.rs"]
mod custom_authenticator;

#[tokio::test]
async fn custom_authenticator_admits_one_client_and_refuses_another() {
    let lines = custom_authenticator::run().await.unwrap();
    assert_eq!(
        lines,
        [
            "meter-7 with the password s3cret: admitted",
            "meter-7 with the password guessed: refused (BadUserNamePassword)"
        ]
    );
}
