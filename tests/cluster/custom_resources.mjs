// Judges objects of KEDA and the Prometheus operator (a JSON list on stdin) by their schemas; prints one line for each wrong one.
// Argument: the folder that has node_modules.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const packages = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};
let wrong = 0;
for (const object of JSON.parse(readFileSync(0))) {
  const name = `${object.kind} ${object.metadata?.name}`;
  try {
    const module = await import(pathToFileURL(`${process.argv[2]}/node_modules/${packages[object.apiVersion]}/${object.kind}.js`));
    new module[object.kind](object).validate();
  } catch (error) {
    wrong += 1;
    console.log(`${name}: ${error.message}`);
  }
}
process.exit(wrong ? 1 : 0);
