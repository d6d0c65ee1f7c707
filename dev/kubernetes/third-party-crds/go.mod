module camofleet.dev/dev/third-party-crds

go 1.24.0

require (
	github.com/prometheus-operator/prometheus-operator v0.86.1
	sigs.k8s.io/gateway-api v1.4.0
)
